"""The recipes run from end to end on miniatures, and what they leave behind can be used."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from miniature import PLOTS, assert_usable, save_checkpoint
from PIL import Image as PILImage
from transformers import AutoModelForImageClassification

from recipes import cifar10_lt, quickstart
from selmix_hf import LongTailedSplit, SelMixConfig
from selmix_hf.studies.command_line import parse_arguments

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(p for p in (ROOT / "recipes" / "configs").glob("cifar10_lt_*.yaml") if "_ssl_" not in p.stem)
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with train.parquet (12 a class) and test.parquet (4 a class): noise with the class in its colour."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    features = Features({"img": Image(), "label": ClassLabel(names=CLASSES)})
    for part, per_class in (("train", 12), ("test", 4)):
        labels = np.repeat(np.arange(10), per_class)
        pixels = random.integers(0, 60, (len(labels), 32, 32, 3)) + labels[:, None, None, None] * 15
        columns = {"img": [PILImage.fromarray(p.astype(np.uint8)) for p in pixels], "label": labels}
        Dataset.from_dict(columns, features=features).to_parquet(folder / f"{part}.parquet")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"), CLASSES)


def cifar10_options(images, checkpoint, out, *more):
    own = ["--model_name_or_path", str(checkpoint), "--dataset", str(images), "--output_dir", str(out)]
    drawn = ["--validation_per_class", "4", "--imbalance_factor", "4", "--use_cpu"]
    drawn += ["--learning_rate", "0.01", "--head_start", "as_is"]
    return [*own, *drawn, "--per_device_train_batch_size", "4", "--max_steps", "4", "--refresh_steps", "2", *more]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_yaml_binds(path, tmp_path):
    options = ["--config", str(path), "--model_name_or_path", "m", "--dataset", "d", "--output_dir", str(tmp_path)]
    arguments, config = parse_arguments((cifar10_lt.Arguments, SelMixConfig), options)
    assert arguments.model_name_or_path == "m"
    whole = path.stem.endswith(("whole_network", "paper"))
    assert config.freeze_backbone is not whole
    assert whole or config.objective in path.stem or config.constraints


def test_there_are_yamls():
    assert len(CONFIGS) >= 5


def test_options_of_recipe_and_trainer_differ():
    assert not {f.name for f in fields(cifar10_lt.Arguments)} & {f.name for f in fields(SelMixConfig)}


def test_cifar10_lt_frozen(images, checkpoint, tmp_path, capsys):
    more = ["--freeze_backbone", "--objective", "mean_recall", "--constraints", '{"coverage": 0.95}']
    results = cifar10_lt.main(cifar10_options(images, checkpoint, tmp_path, *more))
    printed = capsys.readouterr().out
    for words in (
        "| worst-class recall",
        "95% interval",
        "recall of truck",
        "The interval beside a recall is Clopper-Pearson's, over the choice of test images",
        "40 test images",
        "validation: mean recall",
    ):
        assert words in printed
    assert_usable(tmp_path)
    assert all((tmp_path / "plots" / f"{name}.png").is_file() for name in PLOTS)
    split = LongTailedSplit.load(tmp_path / "split.json")
    assert split.digest == results["split_digest"]
    assert split.counts["validation"] == [4] * 10
    assert results["train_counts"] == split.counts["train"] == [8, 6, 5, 5, 4, 3, 3, 2, 2, 2]
    saved = json.loads((tmp_path / "results.json").read_text())
    (run,) = saved["runs"]
    assert run["kept_step"] in (0, 2, 4)
    for part in ("test_before", "test_after"):
        assert 0 <= run[part]["min_recall"] <= run[part]["mean_recall"] <= 1
        assert run[part]["min_recall_low"] <= run[part]["min_recall"] <= run[part]["min_recall_high"]
        assert {f"recall_{end}/{name}" for end in ("low", "high") for name in CLASSES} <= run[part].keys()
    assert {"eval_min_recall", "eval_psi"} <= run["validation_before"].keys() & run["validation_after"].keys()
    assert saved["settings"]["constraints"] == {"coverage": 0.95}
    difference = run["test_after"]["mean_recall"] - run["test_before"]["mean_recall"]
    assert saved["change_and_interval"]["mean_recall"][0] == pytest.approx(difference)


def test_cifar10_lt_whole_network_with_a_saved_split_and_seeds(images, checkpoint, tmp_path, capsys):
    rows = {"train": [*range(0, 120, 12), *range(1, 60, 12)], "validation": [*range(5, 120, 12), *range(6, 120, 12)]}
    (tmp_path / "bare.json").write_text(json.dumps(rows))
    more = [
        "--augment",
        "--channels_last",
        "--image_size",
        "48",
        "--seeds",
        "1",
        "2",
        "--split",
        str(tmp_path / "bare.json"),
    ]
    out = tmp_path / "out"
    results = cifar10_lt.main(cifar10_options(images, checkpoint, out, *more))
    assert [run["seed"] for run in results["runs"]] == [1, 2]
    assert results["train_counts"] == [2] * 5 + [1] * 5
    assert results["runs"][0]["test_before"] == results["runs"][1]["test_before"]
    for seed in (1, 2):
        assert_usable(out / f"seed_{seed}", side=48)
        assert (out / f"seed_{seed}" / "plots" / "recall_per_class.png").is_file()
    assert "seeds 1, 2" in capsys.readouterr().out


def test_cifar10_lt_resumes(images, checkpoint, tmp_path):
    more = ["--save_strategy", "epoch", "--save_total_limit", "9"]
    whole = cifar10_lt.main(cifar10_options(images, checkpoint, tmp_path / "out", *more))
    for asked in ("true", str(tmp_path / "out" / "checkpoint-2")):
        (tmp_path / "out" / "checkpoint-4").rename(tmp_path / f"set-aside-{len(asked)}")  # as if stopped before
        resume = ["--resume_from_checkpoint", asked]
        again = cifar10_lt.main(cifar10_options(images, checkpoint, tmp_path / "out", *more, *resume))
        assert again["settings"]["resume_from_checkpoint"] == "checkpoint-2"
        assert [run["test_after"] for run in again["runs"]] == [run["test_after"] for run in whole["runs"]]
        assert (tmp_path / "out" / "checkpoint-4").is_dir() and again["runs"][0]["history"][-1]["step"] == 2
        assert again["runs"][0]["validation_before"] == pytest.approx(whole["runs"][0]["validation_before"])
    with pytest.raises(SystemExit, match="resume_from_checkpoint goes on with one run: give the one --seed"):
        cifar10_lt.main(cifar10_options(images, checkpoint, tmp_path / "out", *resume, "--seeds", "1", "2"))
    (tmp_path / "out" / "checkpoint-2" / "optimizer.pt").unlink()
    with pytest.raises(SystemExit, match=r"cannot be used: optimizer\.pt is missing"):
        cifar10_lt.main(cifar10_options(images, checkpoint, tmp_path / "out", *more, *resume))
    inexactly = ["--resume_inexactly", "true"]
    cifar10_lt.main(cifar10_options(images, checkpoint, tmp_path / "out", *more, *resume, *inexactly))
    assert "went on from checkpoint-2 inexactly" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"--resume_from_checkpoint": "nowhere"}, "there is no folder 'nowhere' .* holds no checkpoints"),
        ({"--resume_from_checkpoint": "true"}, "asks for the latest checkpoint, but .* holds no checkpoints"),
        ({"--dataset": "nobody/nothing"}, "'nobody/nothing' is no folder here .* a Hub id such as uoft-cs/cifar10"),
        (
            {"--dataset": "EMPTY"},
            r"must hold train\.parquet and test\.parquet, but lacks train\.parquet and test\.parquet",
        ),
        ({"--model_name_or_path": "nobody/model"}, "no image classifier .* could be loaded from 'nobody/model'"),
        ({"--model_name_or_path": "THREE"}, "tells 3 classes apart, the data have 10 .*train the checkpoint on them"),
        ({"--split": "nowhere.json"}, r"--split: there is no file 'nowhere\.json'"),
        ({"--validation_per_class": "50"}, "has 12 images"),
        ({"--validation_per_class": "0"}, "there is no validation set, .*: set validation_per_class above 0"),
        ({"--seeds": "-1"}, r"seeds must differ and lie between 0 and 2\*\*32 - 1, found \[-1\]"),
        ({"--image_size": "0"}, "image_size must be at least 1, found 0"),
        ({"--stage1_batch_size": "0"}, "stage1_batch_size must be at least 1, found 0"),
        ({"--stage1_steps": "-2"}, "stage1_steps must be at least 0, found -2"),
        ({"--stage1_learning_rate": "-1"}, "stage1_learning_rate must be positive, found -1.0"),
        ({"--objective": "min_recal"}, "min_recall"),
        ({"--obective": "min_recall"}, "unknown option --obective, did you mean --objective?"),
    ],
)
def test_cifar10_lt_says_what_is_wrong(changes, sentence, images, checkpoint, tmp_path):
    (tmp_path / "empty").mkdir()
    options = cifar10_options(images, checkpoint, tmp_path / "out")
    for name, value in changes.items():
        if value == "EMPTY":
            value = str(tmp_path / "empty")
        if value == "THREE":
            value = save_checkpoint(tmp_path / "three", ["a", "b", "c"])
        options += [name, value]
    with pytest.raises(SystemExit, match=sentence) as stop:
        cifar10_lt.main(options)
    assert str(stop.value).startswith("cifar10_lt.py: ")


def test_quickstart_by_its_command(tmp_path):
    script, out = ROOT / "recipes" / "quickstart.py", tmp_path / "out"
    options = ["--stage1_steps", "5", "--steps", "10", "--seed", "10", "--output_dir", str(out)]
    done = subprocess.run([sys.executable, str(script), *options], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for words in ("| worst-class recall", "SelMix from there, for min_recall", "Model, plots and numbers are in"):
        assert words in done.stdout
    assert "Warning" not in done.stderr
    assert len(done.stdout.splitlines()) < 40
    assert_usable(out)
    assert all((out / "plots" / f"{name}.png").stat().st_size > 5000 for name in PLOTS)
    assert AutoModelForImageClassification.from_pretrained(out).config.id2label == dict(enumerate("0123456789"))
    reports = json.loads((out / "results.json").read_text())["test"]
    assert reports["SelMix"][0].keys() >= {"mean_recall", "min_recall", "smallest_coverage", "worst_class"}


def test_quickstart_compares_over_seeds(tmp_path, capsys, monkeypatch):
    whole = quickstart.long_tailed_digits

    def few_digits(seed):
        splits = whole(seed)
        for part in ("validation", "test"):
            splits[part] = splits[part].sort("label").select(range(0, len(splits[part]), 10))
        return splits

    monkeypatch.setattr(quickstart, "long_tailed_digits", few_digits)
    options = ["--stage1_steps", "3", "--steps", "3", "--objective", "h_mean", "--output_dir", str(tmp_path)]
    results = quickstart.main([*options, "--seeds", "10", "11"])
    assert {method: len(reports) for method, reports in results["test"].items()} == {
        "end of stage 1": 2,
        "as many more steps of stage 1": 2,
        "as many steps of uniform mixup": 2,
        "SelMix": 2,
    }
    table = capsys.readouterr().out.split("On the test images:")[1]
    assert all(f"| {method}" in table for method in results["test"])
    assert "worst-class recall" in table


def test_quickstart_says_what_is_wrong(tmp_path):
    with pytest.raises(SystemExit, match="quickstart.py: .*min_recal"):
        quickstart.main(["--objective", "min_recal", "--output_dir", str(tmp_path)])
    with pytest.raises(SystemExit, match="unknown option --output, did you mean --output_dir?"):
        quickstart.main(["--output", str(tmp_path)])
    for option, value, sentence in (
        ("--steps", "0", "steps must be at least 1, found 0"),
        ("--stage1_steps", "-5", "stage1_steps must be at least 1, found -5"),
        ("--seed", "-1", "seeds must differ and lie between 0 and .* found -1"),
    ):
        with pytest.raises(SystemExit, match=f"quickstart.py: {sentence}"):
            quickstart.main([option, value, "--output_dir", str(tmp_path)])


def test_the_splits_of_the_quickstart_are_disjoint():
    splits = quickstart.long_tailed_digits(10)
    assert np.bincount(splits["train"]["label"]).tolist() == [60, 38, 24, 15, 9, 6, 3, 2, 1, 1]
    sizes = [np.bincount(splits[part]["label"]) for part in ("validation", "test")]
    assert sum(sizes[0]) + sum(sizes[1]) + 159 == 1797
    assert abs(sizes[0] - sizes[1]).max() <= 1 and sizes[0].min() == 59
    pixels = [{image.tobytes() for image in splits[part]["image"]} for part in splits]
    assert not (pixels[0] & pixels[1] | pixels[0] & pixels[2] | pixels[1] & pixels[2])


@pytest.mark.slow
def test_quickstart_raises_the_worst_class(tmp_path):
    reports = quickstart.main(["--output_dir", str(tmp_path)])["test"]
    assert reports["SelMix"][0]["min_recall"] > reports["end of stage 1"][0]["min_recall"]
