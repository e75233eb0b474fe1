"""The recipes for published benchmarks, on miniatures with the same folders and list files."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.commands.config import load_config_from_file
from accelerate.commands.config.config_args import ClusterConfig
from datasets import ClassLabel, Dataset, Features, Image
from fake_hub import TOKEN, interrupt
from PIL import Image as PILImage
from transformers import AutoModelForImageClassification, pipeline

from benchmarks import on_features
from benchmarks.miniature_imagenet import write_checkpoint, write_images
from recipes import (
    cifar10_lt,
    cifar10_lt_ssl,
    cifar100_lt,
    cifar100_lt_ssl,
    imagenet1k_lt,
    imagenet100_lt_ssl,
    inaturalist2018,
    places_lt,
    stl10_ssl,
)
from selmix_hf import LongTailedSplit, SelMixConfig, SelMixHead
from selmix_hf.mixing.registry import MIXING
from selmix_hf.reports.plots import save_record_plots
from selmix_hf.studies.command_line import parse_arguments
from selmix_hf.studies.record_card import render_record
from selmix_hf.studies.stage1 import Stage1

RECIPES = Path(__file__).parents[1] / "recipes"
ALL = {
    "cifar10_lt": cifar10_lt,
    "cifar100_lt": cifar100_lt,
    "imagenet1k_lt": imagenet1k_lt,
    "places_lt": places_lt,
    "inaturalist2018": inaturalist2018,
    "cifar10_lt_ssl": cifar10_lt_ssl,
    "cifar100_lt_ssl": cifar100_lt_ssl,
    "stl10_ssl": stl10_ssl,
    "imagenet100_lt_ssl": imagenet100_lt_ssl,
}
TEN = RECIPES / "configs" / "ten_classes.yaml"  # of no recipe of its own
CONFIGS = sorted(path for path in (RECIPES / "configs").glob("*.yaml") if path != TEN)
NUM_CLASSES = 5
NAMES = ["tench", "goldfish", "white shark", "tiger shark", "hammerhead"]


def recipe_of(path):
    return ALL[max((name for name in ALL if path.stem.startswith(f"{name}_")), key=len)]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """ImageNet-LT in miniature, the same lists under the other benchmarks' names, and two files of parquet."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder, NUM_CLASSES, max_per_class=12, held_out_per_class=3, side=32)
    for ours, theirs in (("train", "train"), ("val", "val"), ("test", "test")):
        text = (folder / f"ImageNet_LT_{ours}.txt").read_text()
        (folder / f"Places_LT_{theirs}.txt").write_text(text)
        (folder / f"iNaturalist18_{theirs}.txt").write_text(text)
    (folder / "names.txt").write_text("\n".join(NAMES) + "\n")
    return folder


@pytest.fixture(scope="module")
def checkpoint(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder, images, side=32)
    return str(folder)


@pytest.fixture(scope="module")
def cifar100(tmp_path_factory):
    """train.parquet (10 a class) and test.parquet (2 a class) with the columns of uoft-cs/cifar100."""
    folder, random = tmp_path_factory.mktemp("cifar100"), np.random.default_rng(0)
    columns = {"img": Image(), "fine_label": ClassLabel(names=NAMES), "coarse_label": ClassLabel(names=["a", "b"])}
    for part, per_class in (("train", 10), ("test", 2)):
        labels = np.repeat(np.arange(NUM_CLASSES), per_class)
        pixels = random.integers(0, 60, (len(labels), 32, 32, 3)) + labels[:, None, None, None] * 30
        rows = {"img": [PILImage.fromarray(p.astype(np.uint8)) for p in pixels]}
        rows |= {"fine_label": labels, "coarse_label": labels % 2}
        Dataset.from_dict(rows, features=Features(columns)).to_parquet(folder / f"{part}.parquet")
    return folder


def options(checkpoint, out, *more):
    few = ["--use_cpu", "--per_device_train_batch_size", "4", "--max_steps", "4", "--refresh_steps", "2"]
    few += ["--learning_rate", "1e-3", "--head_start", "as_is"]
    return ["--model_name_or_path", checkpoint, "--output_dir", str(out), *few, *map(str, more)]


def test_the_settings_of_ten_classes_are_those_of_the_benchmarks():
    command = ["--config", str(TEN), "--model_name_or_path", "m", "--dataset", "d", "--output_dir", "o"]
    _, config = parse_arguments((ALL["cifar10_lt"].Arguments, SelMixConfig), command)
    expected = {**on_features.TEN_CLASSES, "max_steps": 2000}
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_yaml_binds_and_names_its_folder(path, tmp_path):
    command = ["--config", str(path), "--model_name_or_path", "m"]
    if path.stem.startswith(("cifar10_", "stl10_", "imagenet100_")):
        command += ["--dataset", "d"]
    recipe, config = parse_arguments((recipe_of(path).Arguments, SelMixConfig), command)
    assert recipe.model_name_or_path == "m"
    assert config.output_dir == path.stem
    if path.stem.endswith("_paper"):
        assert (config.learning_rate, config.backbone_learning_rate, config.max_steps) == (3e-4, 3e-5, 10_000)
        assert (config.refresh_steps, config.weight_decay, config.beta_min) == (50, 5e-4, 0.6)
        assert (config.min_rate, config.min_memory, config.freeze_backbone) == (50, 0, False)


@pytest.mark.parametrize("recipe", ALL.values(), ids=ALL)
def test_options_of_recipe_and_trainer_differ(recipe):
    assert not {f.name for f in fields(recipe.Arguments)} & {f.name for f in fields(SelMixConfig)}


@pytest.mark.parametrize(
    ("name", "processes", "machines"), [("one_gpu", 1, 1), ("several_gpus", 2, 1), ("several_nodes", 16, 2)]
)
def test_accelerate_reads_its_files(name, processes, machines):
    config = load_config_from_file(str(RECIPES / "accelerate" / f"{name}.yaml"))
    assert isinstance(config, ClusterConfig)
    assert (config.num_processes, config.num_machines, config.mixed_precision) == (processes, machines, "bf16")


def test_imagenet_frozen(images, checkpoint, tmp_path, capsys):
    """From list files to a model, a head, a card and numbers."""
    more = ["--freeze_backbone", "--image_root", images, "--class_names", images / "names.txt", "--seed", "3"]
    imagenet1k_lt.main(options(checkpoint, tmp_path / "out", *more, "--objective", "min_head_tail_recall"))
    printed = capsys.readouterr().out
    assert "recall of white shark" in printed and "gain and P" in printed and "peak memory" in printed
    text = (tmp_path / "out" / "results.json").read_text()
    assert str(tmp_path) not in text and str(images) not in text and checkpoint not in text
    saved = json.loads(text)
    assert saved["class_names"] == NAMES
    assert saved["train_counts"] == [12, 6, 4, 2, 2]
    assert saved["name"] == "out" and saved["base_model"] == Path(checkpoint).name
    assert saved["command"].startswith("imagenet1k_lt.py --model_name_or_path ")
    assert saved["dataset_id"] == "ILSVRC/imagenet-1k" and len(saved["split_digest"]) == 64
    (run,) = saved["runs"]
    assert run["seed"] == 3
    assert [entry["step"] for entry in run["history"]] == [0, 2]
    assert np.shape(run["gain"]) == np.shape(run["pair_probability"]) == (NUM_CLASSES, NUM_CLASSES)
    assert np.sum(run["pair_probability"]) == pytest.approx(1, abs=1e-3)
    assert 0 <= run["test_after"]["recall/white shark"] <= 1
    seconds = saved["timing"]["seconds"]
    assert {"loading", "features", "statistics passes", "gain and P", "training steps", "evaluation"} <= seconds.keys()
    assert sum(seconds.values()) <= saved["timing"]["total"] and saved["timing"]["peak_memory_gb"] > 0
    whole = AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    joined = SelMixHead.from_pretrained(tmp_path / "out" / "head").load_base().eval()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = [model(pixel_values=pixels).logits for model in (whole, joined)]
    assert (logits[0] - logits[1]).abs().max() == 0
    (answer,) = pipeline("image-classification", str(tmp_path / "out"), device="cpu")(
        PILImage.new("RGB", (32, 32)), top_k=1
    )
    assert answer["label"] in NAMES
    card = (tmp_path / "out" / "README.md").read_text()
    assert "On test images, which took no part" in card and "imagenet1k_lt.py --model_name_or_path" in card
    assert f"split: digest `{saved['split_digest']}`" in card and f"hardware: {saved['hardware']}" in card


@pytest.mark.parametrize("mixing", [name for name, entry in MIXING.items() if entry.before_model])
def test_mixing_is_an_option_of_every_recipe(mixing, images, checkpoint, tmp_path):
    results = places_lt.main(options(checkpoint, tmp_path, "--image_root", images, "--mixing", mixing))
    assert results["settings"]["mixing"] == mixing and results["runs"][0]["test_after"]["mean_recall"] >= 0
    assert f"'mixing': '{mixing}'" in (tmp_path / "README.md").read_text()
    with pytest.raises(SystemExit, match="freeze_backbone=True trains on stored features"):
        frozen = ["--freeze_backbone", "--mixing", mixing]
        places_lt.main(options(checkpoint, tmp_path / "frozen", "--image_root", images, *frozen))


def test_single_samples_are_an_option_of_every_recipe(images, checkpoint, tmp_path):
    """The record and the card tell of them, and of no gains."""
    more = ["--image_root", images, "--freeze_backbone", "--sampling", "class_balanced"]
    results = places_lt.main(options(checkpoint, tmp_path, *more))
    (run,) = results["runs"]
    assert results["settings"]["sampling"] == "class_balanced" and not {"gain", "pair_probability"} & run.keys()
    wanted = "(drawn: every class as often as any other)"
    assert wanted in (tmp_path / "README.md").read_text() and wanted in render_record(results, []).text
    plots = ["objective.png", "recall_per_class.png"]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == plots
    assert sorted(path.name for path in save_record_plots(results, tmp_path / "again")) == plots


def test_imagenet_made_long_tailed_from_parquet(cifar100, checkpoint, tmp_path):
    """The way without lists, where the test labels are withheld."""
    shutil.copy(cifar100 / "train.parquet", tmp_path)
    shutil.copy(cifar100 / "test.parquet", tmp_path / "validation.parquet")
    more = ["--dataset", tmp_path, "--label_column", "fine_label", "--imbalance_factor", "4"]
    more += ["--validation_per_class", "2", "--license", "cc-by-4.0", "--freeze_backbone"]
    with pytest.raises(SystemExit, match="lacks test.parquet .parquet files in it: train.parquet, validation.parquet"):
        imagenet1k_lt.main(options(checkpoint, tmp_path / "out", *more))
    results = imagenet1k_lt.main(options(checkpoint, tmp_path / "out", *more, "--test_split", "validation"))
    assert results["train_counts"] == [8, 5, 3, 2, 2] and results["class_names"] == NAMES
    assert results["dataset_id"] is None and results["dataset"].endswith(", long-tailed")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: cc-by-4.0" in card and LongTailedSplit.load(tmp_path / "out" / "split.json").digest in card


RUNS = {
    "cifar10_lt": ["--dataset", "CIFAR", "--label_column", "fine_label"],
    "cifar100_lt": ["--dataset", "CIFAR", "--freeze_backbone", "--objective", "min_head_tail_recall"],
    "imagenet1k_lt": ["--image_root", "LISTS", "--freeze_backbone"],
    "places_lt": ["--image_root", "LISTS"],
    "inaturalist2018": ["--image_root", "LISTS", "--objective", "mean_recall"],
    "cifar10_lt_ssl": ["--dataset", "CIFAR", "--label_column", "fine_label"],
    "cifar100_lt_ssl": ["--dataset", "CIFAR", "--freeze_backbone", "--pseudo_label_source", "ema"],
    "stl10_ssl": ["--dataset", "STL", "--freeze_backbone"],
    "imagenet100_lt_ssl": ["--dataset", "CIFAR", "--label_column", "fine_label", "--test_split", "test"],
}
FEW = ["--imbalance_factor", "2", "--max_per_class", "4", "--validation_per_class", "2"]
FEW_UNLABELED = ["--unlabeled_max_per_class", "3", "--unlabeled_imbalance_factor", "3"]


@pytest.fixture(scope="module")
def stl10(cifar100, tmp_path_factory):
    """Three files of parquet, one without labels."""
    folder = tmp_path_factory.mktemp("stl10")
    for part in ("train", "test"):
        kept = Dataset.from_parquet(str(cifar100 / f"{part}.parquet")).remove_columns("coarse_label")
        kept.to_parquet(folder / f"{part}.parquet")
    kept.remove_columns("fine_label").to_parquet(folder / "unlabeled.parquet")
    return folder


def test_stage_1_of_the_paper_is_sgd_with_momentum(cifar100, checkpoint, tmp_path):
    more = [
        "--dataset",
        cifar100,
        *FEW,
        *FEW_UNLABELED,
        "--config",
        RECIPES / "configs" / "cifar100_lt_ssl_paper.yaml",
    ]
    command = options(checkpoint, tmp_path / "out", *more)
    arguments, config = parse_arguments((cifar100_lt_ssl.Arguments, SelMixConfig), command)
    trainer = Stage1(arguments, config, cifar100_lt_ssl.load(arguments, tmp_path / "out")).trainer
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, torch.optim.SGD)
    assert {name: optimizer.defaults[name] for name in ("lr", "momentum", "nesterov")} == {
        "lr": 0.03,
        "momentum": 0.9,
        "nesterov": True,
    }
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0005, 0.0}


@pytest.mark.parametrize("method", ["supervised", "fixmatch", "mean_teacher", "mixmatch"])
def test_semi_supervised_from_stage_1_to_selmix(method, cifar100, checkpoint, tmp_path, capsys):
    more = ["--dataset", cifar100, *FEW, *FEW_UNLABELED, "--freeze_backbone", "--refresh_steps", "2"]
    more += ["--stage1_steps", "2", "--stage1_method", method, "--stage1_batch_size", "2"]
    more += ["--stage1_mu", "2"] if method != "supervised" else []
    results = cifar100_lt_ssl.main(options(checkpoint, tmp_path / "out", *more))
    assert (
        f"Stage 1, {'' if method == 'supervised' else method + ', '}logit_adjusted: 2 steps" in capsys.readouterr().out
    )
    assert results["train_counts"] == [4, 3, 2, 2, 2]
    (run,) = results["runs"]
    assert [log["step"] for log in run["pseudo_labels"]] == [0, 2]
    for log in run["pseudo_labels"]:
        assert sum(log[f"pseudo_labels/{name}"] for name in NAMES) == 3 + 2 + 1 + 1 + 1
        assert 0 <= log["pseudo_label_accuracy"] <= 1
    if method != "supervised":
        return
    start = ["--stage1_steps", "0", "--model_name_or_path", tmp_path / "out" / "stage1"]
    start += ["--split", tmp_path / "out" / "split.json"]
    labelled = cifar100_lt_ssl.main(options(checkpoint, tmp_path / "two", *more, *start, "--use_unlabeled", "false"))
    assert "pseudo_labels" not in labelled["runs"][0]
    assert (results["num_unlabeled"], labelled["num_unlabeled"]) == (8, 0)
    cards = [(tmp_path / name / "README.md").read_text() for name in ("out", "two")]
    assert ["beside them 8 without labels" in card for card in cards] == [True, False]
    assert labelled["runs"][0]["test_before"] == run["test_before"]
    oracle = cifar100_lt_ssl.main(
        options(checkpoint, tmp_path / "three", *more, *start, "--pseudo_label_source", "oracle")
    )
    assert oracle["runs"][0]["pseudo_labels"][0]["pseudo_label_accuracy"] == 1


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--stage1_method", "fixmtach"], "stage1_method must be one of supervised, fixmatch, mean_teacher, mixmatch"),
        (["--stage1_method", "mixmatch", "--stage1_threshold", ".9"], "stage1_threshold is FixMatch's"),
        (["--stage1_method", "supervised", "--stage1_mu", "2"], "stage1_mu is for unlabelled images"),
        (
            ["--stage1_mixup_alpha", "0.2"],
            "stage1_mixup_alpha is for stage1_method=supervised: fixmatch has its views",
        ),
        (["--stage1_sampling", "square_root"], "stage1_sampling is for stage1_method=supervised: fixmatch draws"),
        (["--stage1_sampling", "2"], "sampling must be one of .*square_root.*, found '2'"),
        (["--split", "LABELLED"], "there are no unlabelled images: set unlabeled_max_per_class, or give a split"),
        (["--unlabeled_max_per_class", "9"], "lower max_per_class, unlabeled_max_per_class"),
    ],
)
def test_semi_supervised_says_what_is_wrong(more, sentence, cifar100, checkpoint, tmp_path):
    split = LongTailedSplit(tuple(range(0, 50, 5)), tuple(range(1, 50, 5)), label_column="fine_label")
    split.save(tmp_path / "split.json")
    more = [tmp_path / "split.json" if word == "LABELLED" else word for word in more]
    with pytest.raises(SystemExit, match=sentence):
        cifar100_lt_ssl.main(options(checkpoint, tmp_path / "out", "--dataset", cifar100, *FEW, *FEW_UNLABELED, *more))


def test_stl10_needs_its_unlabelled_file(cifar100, checkpoint, tmp_path):
    with pytest.raises(
        SystemExit, match="must hold train.parquet, test.parquet and unlabeled.parquet, but lacks unlab"
    ):
        stl10_ssl.main(options(checkpoint, tmp_path / "out", "--dataset", cifar100, *FEW))


BY_TWO = (
    "imagenet1k_lt",
)  # the others are alike, and slow; tests/training/test_semi_supervised.py has unlabelled images


@pytest.mark.parametrize(
    "recipe", [name if name in BY_TWO else pytest.param(name, marks=pytest.mark.slow) for name in RUNS]
)
def test_two_processes_give_the_results_of_one(recipe, images, cifar100, stl10, checkpoint, tmp_path):
    """Started by torchrun, at the same pairs a step. CPU processes may abort at exit: the files count."""
    more = [{"CIFAR": cifar100, "LISTS": images, "STL": stl10}.get(word, word) for word in RUNS[recipe]]
    if recipe in ("cifar10_lt", "cifar100_lt"):
        more += ["--imbalance_factor", "4", "--validation_per_class", "2"]
    elif recipe.endswith("_ssl"):
        more += [*FEW, *(FEW_UNLABELED if recipe != "stl10_ssl" else [])]
    two = options(checkpoint, tmp_path / "two", *more, "--per_device_train_batch_size", "2")
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d"]
    launcher += ["--rdzv_endpoint", "localhost:0", str(RECIPES / f"{recipe}.py"), *two]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(RECIPES.parent)}
    done = subprocess.run([sys.executable, *launcher], env=environment, capture_output=True, text=True, timeout=300)
    assert (tmp_path / "two" / "results.json").is_file(), done.stderr[-3000:]
    assert done.stdout.count("Looking at the test images") == 1
    one = ALL[recipe].main(options(checkpoint, tmp_path / "one", *more))
    saved = json.loads((tmp_path / "two" / "results.json").read_text())
    (run,), (alone,) = saved["runs"], one["runs"]
    assert saved["hardware"].startswith("2 processes x ")
    assert run["kept_step"] == alone["kept_step"]
    assert run["test_before"] == alone["test_before"]
    for name, value in alone["test_after"].items():
        assert run["test_after"][name] == (value if isinstance(value, str) else pytest.approx(value, abs=1e-5))
    assert np.allclose(run["gain"], alone["gain"], rtol=2e-3, atol=1e-4 * np.abs(alone["gain"]).max())
    assert [e["gain_set_psi"] for e in run["history"]] == pytest.approx(
        [e["gain_set_psi"] for e in alone["history"]], abs=1e-5
    )


def test_inaturalist_divides_its_validation_list(images, checkpoint, tmp_path, capsys):
    results = inaturalist2018.main(
        options(checkpoint, tmp_path, "--image_root", images, "--freeze_backbone", "--objective", "mean_recall")
    )
    assert "26 train, 5 validation, 10 test images" in capsys.readouterr().out
    assert "No labelled test set is published: 1 of the 3 validation images" in results["remark"]
    assert results["remark"] in (tmp_path / "README.md").read_text()
    for part in ("train", "val"):
        text = (images / f"iNaturalist18_{part}.txt").read_text().splitlines()
        kept = [line for line in text if part == "train" or not line.endswith(" 4")]
        (tmp_path / f"iNaturalist18_{part}.txt").write_text("\n".join(kept))
    with pytest.raises(
        SystemExit, match="iNaturalist18_val.txt must have two images of every class .* it has 0 of its"
    ):
        inaturalist2018.main(options(checkpoint, tmp_path, "--image_root", images, "--lists", tmp_path))
    with pytest.raises(SystemExit, match="--steering_per_class must leave a test image .* 1 to 2"):
        inaturalist2018.main(options(checkpoint, tmp_path, "--image_root", images, "--steering_per_class", "3"))


def test_inaturalist_reads_its_json_where_there_are_no_lists(images, tmp_path):
    """The same images with the same numbers, and the names of the categories."""
    categories = [{"id": 100 + k, "name": f"species {k}"} for k in range(NUM_CLASSES)]
    for part, name in inaturalist2018.COCO.items():
        lines = (images / inaturalist2018.FILES[part]).read_text().splitlines()
        rows = [line.rpartition(" ") for line in lines]
        content = {
            "images": [{"id": n, "file_name": path} for n, (path, _, _) in enumerate(rows)],
            "annotations": [{"image_id": n, "category_id": 100 + int(k)} for n, (*_, k) in enumerate(rows)],
            "categories": categories,
        }
        (tmp_path / name).write_text(json.dumps(content))
    given = {"model_name_or_path": "any", "image_root": str(images)}
    listed = inaturalist2018.load(inaturalist2018.Arguments(**given), tmp_path)
    read = inaturalist2018.load(inaturalist2018.Arguments(**given, lists=str(tmp_path)), tmp_path)
    assert read.class_names == [f"species {k}" for k in range(NUM_CLASSES)]
    for part, split in listed.splits.items():
        assert read.splits[part]["label"][:] == split["label"][:]
    named = {"lists": str(tmp_path), "class_names": str(images / "names.txt")}
    with pytest.raises(ValueError, match="--class_names is for list files, and JSON names its categories"):
        inaturalist2018.load(inaturalist2018.Arguments(**given, **named), tmp_path)


def test_cifar100_runs_stage_1_once_and_keeps_a_run_that_cannot_be_pushed(
    cifar100, checkpoint, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    stage1 = ["--stage1_steps", "3", "--stage1_learning_rate", "0.001", "--stage1_mixup_alpha", "0.2"]
    stage1 += ["--stage1_loss", "balanced_softmax", "--stage1_batch_size", "8"]
    more = ["--dataset", cifar100, "--imbalance_factor", "4", "--validation_per_class", "2", "--augment", *stage1]
    command = options(checkpoint, tmp_path / "out", *more)
    with pytest.raises(SystemExit, match="the run is complete, but .*HF_HUB_OFFLINE is set.*push_folder") as stop:
        cifar100_lt.main([*command, "--push_to_hub", "--hub_private_repo", "true", "--hub_revision", "v1"])
    assert "push_folder(folder=" in str(stop.value) and ", private=True, revision='v1')" in str(stop.value)
    assert stop.value.code not in (0, None)
    assert "Stage 1, balanced_softmax: 3 steps" in capsys.readouterr().out
    saved = json.loads((tmp_path / "out" / "results.json").read_text())
    assert saved["train_counts"] == [8, 5, 4, 2, 2] and saved["class_names"] == NAMES
    for folder in ("out", "out/stage1"):
        model = AutoModelForImageClassification.from_pretrained(tmp_path / folder)
        assert model.config.id2label == dict(enumerate(NAMES))
    again = cifar100_lt.main(command)  # stage 1 is complete: it is read
    assert "Stage 1" not in capsys.readouterr().out
    assert again["runs"][0]["test_before"] == saved["runs"][0]["test_before"]
    with pytest.raises(SystemExit, match="holds a model of other settings .stage1_steps: 3 there, 4 here"):
        cifar100_lt.main([*command, "--stage1_steps", "4"])
    with pytest.raises(SystemExit, match="stage1_sampling: 'natural' there, 'class_balanced' here"):
        cifar100_lt.main([*command, "--stage1_sampling", "class_balanced"])


@pytest.mark.parametrize(("sampling", "power"), [("natural", None), ("class_balanced", 0), ("0.5", 0.5)])
def test_stage_1_draws_as_its_option_says(sampling, power, cifar100, checkpoint, tmp_path):
    more = ["--dataset", cifar100, "--imbalance_factor", "4", "--validation_per_class", "2", "--stage1_steps", "2"]
    more += ["--stage1_loss", "cross_entropy", "--stage1_sampling", sampling]
    command = options(checkpoint, tmp_path, *more)
    arguments, config = parse_arguments((cifar100_lt.Arguments, SelMixConfig), command)
    data = cifar100_lt.load(arguments, tmp_path)
    weights_N = Stage1(arguments, config, data).trainer.sample_weights
    if power is None:
        assert weights_N is None
        return
    drawn_K = np.bincount(data.splits["train"]["fine_label"], weights_N)
    assert drawn_K / drawn_K.sum() == pytest.approx(data.train_counts**power / (data.train_counts**power).sum())


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (401, "the push to 'me/out' failed: no valid token; run `hf auth login`"),
        (500, "the push to 'me/out' failed: the Hub answered 500; try again later"),
        (interrupt, "the push to 'me/out' was interrupted"),
        ("no token", "opening the repository 'out' failed: no valid token; run `hf auth login`"),
    ],
)
def test_the_command_that_a_failed_push_prints_repeats_it(
    failure, sentence, hub, images, checkpoint, tmp_path, warnings, monkeypatch
):
    if failure == "no token":
        monkeypatch.delenv("HF_TOKEN")
    else:
        hub.failures.append(failure)
    with pytest.raises(SystemExit) as stop:
        places_lt.main(options(checkpoint, tmp_path / "out", "--image_root", images, "--push_to_hub"))
    warnings[:] = [one for one in warnings if not one.startswith("the start was kept")]
    told = stop.value.code if isinstance(stop.value.code, str) else warnings.pop()
    assert stop.value.code == 130 or failure != interrupt
    assert not warnings and hub.commits == []
    assert sentence in told and f"Nothing is lost: the files are in {tmp_path / 'out'}. To repeat the push: " in told
    python, option, code = shlex.split(re.search("To repeat the push: (python .*)$", told)[1])
    assert (python, option) == ("python", "-c")
    monkeypatch.chdir(images)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    exec(code, {})
    assert {"model.safetensors", "README.md", "results.json"} <= set(hub.files("me/out"))
    assert b'pipeline("image-classification", "me/out")' in hub.files("me/out")["README.md"]


def test_a_seed_that_is_pushed_has_the_numbers_of_all(hub, images, checkpoint, tmp_path):
    more = ["--image_root", images, "--push_to_hub", "--hub_model_id", "me/x", "--seeds", "3", "4"]
    places_lt.main(options(checkpoint, tmp_path / "out", *more))
    assert [run["seed"] for run in json.loads(hub.files("me/x")["results.json"])["runs"]] == [3, 4]
    with pytest.raises(SystemExit, match="places_lt.py: .*'a b/c'"):
        places_lt.main(options(checkpoint, tmp_path / "out", *more, "--hub_model_id", "a b/c"))


@pytest.mark.parametrize(("stage1", "row"), [(0, 3), (1, 3), (0, 0), (1, 0)])
def test_an_image_that_is_cut_off_is_named(stage1, row, images, checkpoint, tmp_path):
    shutil.copytree(images, tmp_path / "images")
    lists = (tmp_path / "images" / "ImageNet_LT_train.txt").read_text().splitlines()
    cut = tmp_path / "images" / lists[row].rpartition(" ")[0]
    cut.write_bytes(cut.read_bytes()[:200])
    more = ["--image_root", tmp_path / "images", "--stage1_steps", stage1, "--augment"]
    with pytest.raises(SystemExit, match=rf"imagenet1k_lt.py: .*train.*: row \d+ \({cut}\) has no image"):
        imagenet1k_lt.main(options(checkpoint, tmp_path / "out", *more, "--max_steps", "50"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\x89PNG\xff\xfe", "Places_LT_val.txt: expected lines of 'path label', found no text"),
        (b"<!DOCTYPE html>\n", "Places_LT_val.txt, line 1: the label must be an integer from 0, found 'html>'"),
        (b"", "Places_LT_val.txt lists no image"),
    ],
)
def test_a_list_file_that_is_none_gets_a_sentence(content, sentence, images, checkpoint, tmp_path):
    for part in ("train", "val", "test"):
        shutil.copy(images / f"Places_LT_{part}.txt", tmp_path)
    (tmp_path / "Places_LT_val.txt").write_bytes(content)
    with pytest.raises(SystemExit, match=f"{tmp_path}/{sentence}.*published with OLTR"):
        places_lt.main(options(checkpoint, tmp_path / "out", "--image_root", images, "--lists", tmp_path))


def test_parquet_that_is_none_gets_a_sentence(cifar100, checkpoint, tmp_path):
    shutil.copy(cifar100 / "train.parquet", tmp_path)
    (tmp_path / "test.parquet").write_bytes(b"<html>not found</html>")
    with pytest.raises(SystemExit, match=f"{tmp_path}/test.parquet is no parquet file .*: download it again"):
        cifar100_lt.main(options(checkpoint, tmp_path / "out", "--dataset", tmp_path))
    Dataset.from_dict({"other": [1]}).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(SystemExit, match="train.parquet and test.parquet in .* do not make one dataset .*other"):
        cifar100_lt.main(options(checkpoint, tmp_path / "out", "--dataset", tmp_path))


def test_the_split_of_a_recipe_fits_the_data_as_they_are(cifar100, checkpoint, tmp_path):
    more = ["--dataset", cifar100, "--imbalance_factor", "4", "--validation_per_class", "2", "--freeze_backbone"]
    results = cifar100_lt.main(options(checkpoint, tmp_path / "out", *more))
    splits = LongTailedSplit.load(tmp_path / "out" / "split.json").apply(
        Dataset.from_parquet(str(cifar100 / "train.parquet"))
    )
    assert np.bincount(splits["train"]["fine_label"]).tolist() == results["train_counts"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\x89PNG\xff\xfe", "--class_names: .*names.txt is no text file"),
        (b"\n", "--class_names: .*names.txt is empty; expected one class name a line"),
        (b"a\nb\n", "--class_names: .*names.txt has 2 names, but .*_train.txt, line .*label 2"),
    ],
)
def test_class_names_that_do_not_fit(content, sentence, images, checkpoint, tmp_path):
    (tmp_path / "names.txt").write_bytes(content)
    more = ["--image_root", images, "--class_names", tmp_path / "names.txt"]
    with pytest.raises(SystemExit, match=sentence):
        places_lt.main(options(checkpoint, tmp_path / "out", *more))


@pytest.mark.parametrize(
    ("recipe", "changes", "sentence"),
    [
        (imagenet1k_lt, {}, "imagenet1k_lt.py: --image_root is missing: .*ImageNet_LT_train.txt.*OLTR"),
        (imagenet1k_lt, {"--image_root": "nowhere"}, "--image_root: there is no folder 'nowhere'"),
        (
            places_lt,
            {"--image_root": "HERE", "--lists": "EMPTY"},
            "must hold Places_LT_train.txt, .*but does not.*places2",
        ),
        (
            inaturalist2018,
            {"--image_root": "EMPTY", "--lists": "HERE"},
            "26 of 26 images of .* are not under.*inat_comp",
        ),
        (places_lt, {"--image_root": "HERE", "--class_names": "no.txt"}, "--class_names: there is no file 'no.txt'"),
        (imagenet1k_lt, {"--image_root": "HERE", "--dataset": "x"}, "give one of them"),
        (cifar100_lt, {}, "'uoft-cs/cifar100' is no folder here"),
        (cifar10_lt, {"--dataset": "CIFAR"}, "fine_label, coarse_label all could; pass label_column"),
        (cifar10_lt, {"--dataset": "CIFAR", "--label_column": "x"}, "no column 'x' in the dataset; it has img, fine_"),
        (places_lt, {"--image_root": "HERE", "--stage1_steps": "1", "--stage1_loss": "ldma"}, "unknown loss 'ldma'"),
    ],
)
def test_a_wrong_download_gets_a_sentence(recipe, changes, sentence, images, cifar100, checkpoint, tmp_path):
    (tmp_path / "empty").mkdir()
    places = {"HERE": images, "EMPTY": tmp_path / "empty", "CIFAR": cifar100}
    words = [str(places.get(word, word)) for pair in changes.items() for word in pair]
    with pytest.raises(SystemExit, match=sentence):
        recipe.main(options(checkpoint, tmp_path / "out", *words))


def test_the_readme_lists_every_recipe_and_file():
    readme = (RECIPES / "README.md").read_text(encoding="utf-8")
    for path in [*RECIPES.glob("*.py"), *(RECIPES / "accelerate").glob("*.yaml")]:
        assert path.name in readme
    assert all(isinstance(yaml.safe_load(path.read_text()), dict) for path in CONFIGS)
