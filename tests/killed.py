"""Runs in forked processes, which have everything imported, and their end by SIGKILL."""

import multiprocessing
import os
import random
import socket
import time
from pathlib import Path

import tiny
import torch
from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from selmix_hf import FixMatchTrainer, Stage1Trainer

STEPS = 12
KINDS = ("selmix", "frozen", "cached", "stage1", "fixmatch")


def make(kind, folder, **options):
    """A trainer that saves at every second step."""
    given = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 2} | options
    if kind in ("selmix", "frozen", "cached"):
        learn = {"learning_rate": 0.02, "eval_strategy": "steps", "eval_steps": 2, "objective": "mean_recall"}
        if kind == "cached":
            learn |= {"feature_cache_dir": str(Path(folder) / "cache"), "feature_views": 2}
            learn |= {"train_transform": tiny.random_view, "eval_transform": tiny.to_tensor}
        return tiny.trainer(folder, freeze_backbone=kind != "selmix", **learn | given)
    args = TrainingArguments(
        str(folder), use_cpu=True, report_to="none", disable_tqdm=True, learning_rate=0.01, **given
    )
    sets = {"train_dataset": tiny.images(), "processing_class": tiny.processor()}
    if args.eval_strategy != "no":
        sets["eval_dataset"] = tiny.images(tiny.GAIN_COUNTS, seed=1)
    if kind == "fixmatch":
        return FixMatchTrainer(tiny.model(), args, unlabeled_dataset=tiny.images((3, 3, 3, 3), 5), mu=1, **sets)
    return Stage1Trainer(tiny.model(), args, **sets)


def train(kind, folder, **options):
    """Begin, or go on from the latest whole checkpoint."""
    torch.set_num_threads(1)
    run = make(kind, folder, **options)
    run.train(resume_from_checkpoint=any(Path(folder).glob("checkpoint-*")))
    os._exit(0)  # nothing of the parent's is run


def as_one_of_two(rank, port, function, *arguments):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    function(*arguments)


def two(function, *arguments):
    """Processes of one run."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    return [child(as_one_of_two, rank, port, function, *arguments) for rank in (0, 1)]


def child(function, *arguments, **options):
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments, kwargs=options)
    process.start()
    return process


def half_written(folder):
    """Whether a checkpoint is being written."""
    for path in Path(folder).glob("checkpoint-*"):
        try:
            text = (path / "manifest.json").read_text()
        except OSError:
            return True
        if '"files": null' in text:
            return True
    return False


def kill_at_random(process, generator, most):
    process.join(generator.uniform(0, most))
    end(process)


def kill_while_writing(process, generator, folder):
    """After the writing of one of the checkpoints has begun."""
    for _ in range(generator.randint(1, 3)):
        while process.is_alive() and half_written(folder):
            time.sleep(0.0002)
        while process.is_alive() and not half_written(folder):
            time.sleep(0.0002)
    time.sleep(generator.uniform(0, 0.01))
    end(process)


def end(process):
    process.kill()
    process.join()


def weights_of(folder):
    return (Path(get_last_checkpoint(str(folder))) / "model.safetensors").read_bytes()


def survives(kind, folder, kills, aimed, seed=0, seconds=2.0):
    """Kill a run so many times and let it end; its last weights, as bytes, and how often the newest folder was in
    pieces."""
    generator, in_pieces = random.Random(seed), 0
    for _ in range(kills):
        process = child(train, kind, folder)
        kill_while_writing(process, generator, folder) if aimed else kill_at_random(process, generator, seconds)
        in_pieces += half_written(folder)
    last = child(train, kind, folder)
    last.join(120)
    assert last.exitcode == 0
    return weights_of(folder), in_pieces
