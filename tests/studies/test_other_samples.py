"""The recipes on texts, and on samples of a kind that they do not know: from end to end, and in words that fit."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import texts
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from huggingface_hub import ModelCard
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel, pipeline, set_seed
from transformers.modeling_outputs import SequenceClassifierOutput

from recipes import analysis, compare
from selmix_hf import SelMixHead
from selmix_hf.data.modality import Modality
from selmix_hf.studies.compare.by_trainer import ByTrainer
from selmix_hf.studies.compare.methods import SELMIX
from selmix_hf.studies.compare.on_features import OnFeatures
from selmix_hf.studies.data import BenchmarkData
from selmix_hf.studies.own_data import OwnDataArguments, load_own, own_data
from selmix_hf.studies.record_card import render_record
from selmix_hf.studies.run import run_recipe
from selmix_hf.studies.start import BenchmarkArguments, SemiSupervisedStart

FROZEN = ["--freeze_backbone", "true"]
pytestmark = pytest.mark.usefixtures("few_refit_steps")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return texts.write_texts_and_checkpoint(tmp_path_factory.mktemp("texts"))


# --- texts -------------------------------------------------------------------------------------------------------


def test_compare(folder, tmp_path, capsys, monkeypatch):
    few = [*FROZEN, "--objectives", "mean_recall", "--methods", "cRT", "class bias", "--num_settings", 1]
    record = compare.main(texts.options_for(folder, tmp_path, *few))
    assert set(record["objectives"]["mean_recall"]) == {"cRT", "class bias", SELMIX}
    assert record["task"] == "text-classification" and record["num_test"] == sum(texts.COUNTS["test"])
    assert record["train_counts"] == list(texts.COUNTS["train"]) and not (tmp_path / "split.json").exists()
    said, report = capsys.readouterr().out, (tmp_path / "compare.md").read_text()
    assert "nothing was made long-tailed" in said and "nothing was made long-tailed" in report
    assert "Features of 91 texts ..." in said and "On 26 test texts" in report
    assert "image" not in said + report
    made = []
    for kind in (ByTrainer, OnFeatures):
        monkeypatch.setattr(kind, "fit", lambda *given: made.append(given))
    again = compare.main(texts.options_for(folder, tmp_path, *few, "--text_column", "text"))
    assert not made and again["objectives"] == record["objectives"]  # the tokens are known to be the same


def test_analysis(folder, tmp_path, capsys):
    few = ["validation_size", "imbalance"]
    options = texts.options_for(folder, tmp_path, *FROZEN, "--studies", *few, "--objectives", "min_recall")
    record = analysis.main(options)
    labels = {name: [row["label"] for row in study["min_recall"]] for name, study in record["studies"].items()}
    assert labels == {
        "validation_size": ["5", "6 (all)"],  # of the largest class; of the others as many as there are
        "imbalance": ["10", "15 (2 texts)"],
    }
    said, report = capsys.readouterr().out, (tmp_path / "report.md").read_text()
    assert "43 train, 22 validation texts" in said and "nothing was made long-tailed" in report
    assert (
        "Texts that steer" in said and "| texts a class" in report and "## Imbalance of the training texts" in report
    )
    assert "image" not in said + report


@pytest.mark.parametrize("factor", [10, 30], ids=["nothing left to draw from", "texts left to draw from"])
def test_analysis_of_texts_made_long_tailed(factor, folder, tmp_path):
    """The study of imbalance draws from texts in no split, which are tokenised too."""
    texts.texts((40, 40, 40)).to_parquet(tmp_path / "train.parquet")
    drawn = ["--dataset", tmp_path, "--max_per_class", 30, "--imbalance_factor", factor, "--validation_per_class", 4]
    few = ["--studies", "imbalance", "--objectives", "min_recall"]
    record = analysis.main(texts.options_for(folder, tmp_path / "out", *drawn, *FROZEN, *few))
    assert [row["label"] for row in record["studies"]["imbalance"]["min_recall"]] == ["10", "15 (2 texts)"]
    assert record["remark"] == "The training texts were made long-tailed here."


def test_analysis_leaves_out_what_mixes_images(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(analysis, "run_study", lambda *given, **own: {"min_recall": []})
    monkeypatch.setattr(analysis, "write_report", lambda *given: "")
    assert "mixing" not in analysis.main(texts.options_for(folder, tmp_path, *FROZEN))["studies"]
    assert "Left out, being of images: mixing." in capsys.readouterr().out


@dataclass(kw_only=True)
class OwnArguments(OwnDataArguments, BenchmarkArguments):
    """Of a recipe that somebody writes."""


@dataclass(kw_only=True)
class WithUnlabelled(OwnDataArguments, SemiSupervisedStart):
    pass


def load_texts(arguments, folder):
    return own_data(arguments, *load_own(arguments, ["train", "test"]), folder, "packages")


def test_a_recipe_of_ones_own(folder, tmp_path, capsys):
    """From a checkpoint in half precision to a model, its head and two cards that speak of texts."""
    options = texts.options_for(folder, tmp_path / "out", *FROZEN, "--max_length", 12, "--seeds", 0, 1)
    results = run_recipe("own.py", OwnArguments, load_texts, options)
    out = tmp_path / "out" / "seed_1"
    said, text = capsys.readouterr().out, (out / "README.md").read_text()
    assert "On the 26 test texts" in said and "All splits are the dataset's own" in text and "image" not in said
    for card in (ModelCard(text), render_record(results, [])):
        assert card.data.pipeline_tag == "text-classification"
        assert {result.task_type for result in card.data.eval_results} == {"text-classification"}
        assert "- training texts: 43 of 3 classes" in card.text and "image" not in card.text
        assert 'pipeline("text-classification", "' in card.text and "truncation=True" in card.text
    model = AutoModelForSequenceClassification.from_pretrained(out)
    assert model.dtype == torch.float32 and model.config.id2label == dict(enumerate(texts.NAMES))
    joined = SelMixHead.from_pretrained(out / "head").load_base()
    assert torch.equal(joined.classifier.weight, model.classifier.weight)
    classify = pipeline("text-classification", str(out), device="cpu")
    long, cut = (classify(" ".join(["web"] * words), truncation=True)[0] for words in (50, 10))
    assert long == cut and long["label"] in texts.NAMES


def test_stage_1_and_all_weights(folder, tmp_path):
    texts.save_model(tmp_path / "base", texts.bert().bert)  # a language model, without a head
    more = ["--model_name_or_path", tmp_path / "base", "--stage1_steps", 40, "--stage1_batch_size", 8]
    options = texts.options_for(folder, tmp_path / "out", *more, "--stage1_learning_rate", 0.01)
    (run,) = run_recipe("own.py", OwnArguments, load_texts, options)["runs"]
    assert run["test_before"]["mean_recall"] > 0.5
    with pytest.raises(SystemExit, match=r"holds a model of other settings \(max_length: None there, 9 here\)"):
        run_recipe("own.py", OwnArguments, load_texts, [*options, "--max_length", "9"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--image_size", 32], "image_size is for images, and these data are for text-classification: leave it out"),
        (["--augment"], "augment is for images"),
        (["--channels_last"], "channels_last is for images"),
        (["--mixing", "input"], "mixing is for images"),
        (["--stage1_steps", 1, "--stage1_mixup_alpha", 0.2], "stage1_mixup_alpha is for images"),
        (["--studies", "mixing"], "--studies: mixing is of images, and these data are for text-classification"),
        (["--model_name_or_path", "nowhere"], "no text classifier with its tokenizer could be loaded from 'nowhere'"),
        (["--max_length", 2], "max_length must lie between 3 and 32"),
        (
            ["--imbalance_factor", 10, "--validation_per_class", 20],
            "'games' .* has 9 texts, but 3 for training and 20",
        ),
    ],
)
def test_what_is_wrong_gets_a_sentence(options, sentence, folder, tmp_path):
    with pytest.raises(SystemExit, match=f"analysis.py: .*{sentence}"):
        analysis.main(texts.options_for(folder, tmp_path, *options))


def test_too_few_validation_texts_for_the_search(folder, tmp_path):
    for part, counts in (texts.COUNTS | {"validation": (9, 3, 5)}).items():
        texts.texts(counts).to_parquet(tmp_path / f"{part}.parquet")
    with pytest.raises(
        SystemExit, match="the validation texts of each class .* a class with 3: .* a validation split"
    ):
        compare.main([*texts.options_for(folder, tmp_path / "out"), "--dataset", str(tmp_path)])


def test_unlabelled_texts_have_no_views(folder, tmp_path):
    def load(arguments, folder):
        data = load_texts(arguments, folder)
        data.splits["unlabeled"] = data.splits["train"].select_columns("text")
        return data

    options = texts.options_for(folder, tmp_path, "--stage1_steps", 1)
    with pytest.raises(SystemExit, match="own.py: stage1_method is for images"):
        run_recipe("own.py", WithUnlabelled, load, options)


# --- any other samples -------------------------------------------------------------------------------------------


class PointsConfig(PreTrainedConfig):
    model_type = "points"


class PointsClassifier(PreTrainedModel):
    """Two layers on four numbers."""

    config_class, main_input_name = PointsConfig, "values"

    def __init__(self, config):
        super().__init__(config)
        self.body, self.classifier = nn.Linear(4, 8), nn.Linear(8, config.num_labels)
        self.post_init()

    def forward(self, values, labels=None):
        return SequenceClassifierOutput(logits=self.classifier(self.body(values).relu()))


@dataclass
class PointsCollator:
    processor: None
    label_column: str

    def __call__(self, examples):
        labels = [example[self.label_column] for example in examples]
        return {"values": torch.tensor([example["point"] for example in examples]), "labels": torch.tensor(labels)}


def points(counts, seed):
    random, labels = np.random.default_rng(seed), np.repeat(np.arange(len(counts)), counts)
    values = random.normal(size=(len(labels), 4)) + 3 * np.eye(4)[labels]
    features = Features({"point": List(Value("float32")), "kind": ClassLabel(names=texts.NAMES)})
    return Dataset.from_dict({"point": values, "kind": labels}, features=features)


def load_points(arguments, folder):
    splits = {part: points(counts, seed) for seed, (part, counts) in enumerate(texts.COUNTS.items())}
    modality = Modality("tabular-classification", PointsClassifier, collator=PointsCollator)
    return BenchmarkData(DatasetDict(splits), "0" * 64, "points", modality=modality)


def options_for_points(folder, out, *more):
    set_seed(0)
    labels = {"id2label": dict(enumerate(texts.NAMES)), "label2id": {name: k for k, name in enumerate(texts.NAMES)}}
    PointsClassifier(PointsConfig(**labels)).to(torch.bfloat16).save_pretrained(folder / "checkpoint")
    return texts.options_for(folder, out, *more)


def test_samples_of_another_kind_in_a_recipe(tmp_path, capsys):
    """With stage 1, whose mixup needs numbers, and these are."""
    options = options_for_points(
        tmp_path, tmp_path / "out", *FROZEN, "--stage1_steps", 30, "--stage1_mixup_alpha", 0.1
    )
    options += ["--stage1_learning_rate", "0.05", "--dataset", "points"]
    results = run_recipe("points.py", OwnArgumentsOfPoints, load_points, options)
    assert results["task"] == "tabular-classification" and results["runs"][0]["test_before"]["mean_recall"] > 0.8
    assert PointsClassifier.from_pretrained(tmp_path / "out").dtype == torch.float32
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.pipeline_tag == "tabular-classification" and "On test samples, which took no part" in card.text
    assert "transformers has no pipeline for this task" in card.text
    assert "image" not in card.text + capsys.readouterr().out


@dataclass(kw_only=True)
class OwnArgumentsOfPoints(BenchmarkArguments):
    dataset: str


def test_samples_of_another_kind_in_compare_and_analysis(tmp_path, capsys):
    options = options_for_points(tmp_path, tmp_path / "out", *FROZEN, "--seeds", 0)
    few = ["--objectives", "mean_recall", "--methods", "cRT", "--num_settings", "1"]
    record = compare.main([*options, *few], load=load_points)
    assert list(record["objectives"]["mean_recall"]) == ["cRT", SELMIX]
    few = ["--objectives", "mean_recall", "--studies", "beta_min"]
    record = analysis.main([*options, *few], load=load_points)
    assert len(record["studies"]["beta_min"]["mean_recall"]) == 6
    assert "On 26 test samples" in (tmp_path / "out" / "compare.md").read_text()
    assert "image" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="mixing is of images, and these data are for tabular-classification"):
        analysis.main([*options, "--studies", "mixing"], load=load_points)


def test_a_head_of_another_kind_of_model_is_found_by_its_samples(tmp_path):
    """A checkpoint without one gets it; one that lacks its body is refused."""
    options = options_for_points(tmp_path, tmp_path / "out", "--stage1_steps", 1, "--dataset", "points")
    model = PointsClassifier.from_pretrained(tmp_path / "checkpoint")
    del model.body
    model.save_pretrained(tmp_path / "checkpoint")
    with pytest.raises(SystemExit, match=r"lacks 2 weights of the backbone, .* \(body.bias, body.weight\)"):
        run_recipe("points.py", OwnArgumentsOfPoints, load_points, options)


# --- real texts --------------------------------------------------------------------------------------------------


@pytest.mark.reference
def test_sections_of_debian_packages(reference_data, tmp_path):
    """57 classes, 540 down to 13 texts; a few of each here, and a checkpoint stored as float16."""
    where = reference_data / "data" / "debian_sections"
    if not where.is_dir():
        pytest.skip(f"there is no {where}")
    for part, most in (("train", 8), ("validation", 4), ("test", 4)):
        data = Dataset.from_parquet(str(where / f"{part}.parquet"))
        labels = np.array(data["label"][:])
        rows = np.concatenate([np.flatnonzero(labels == k)[:most] for k in range(labels.max() + 1)])
        data.select(rows).to_parquet(tmp_path / f"{part}.parquet")
    options = texts.options_for(tmp_path, tmp_path / "out", *FROZEN, "--text_column", "text", "--seeds", 0)
    options += ["--model_name_or_path", str(reference_data / "checkpoints" / "debian-sections-minilm")]
    options += ["--objectives", "mean_recall", "--methods", "the start", "--num_settings", "1"]
    record = compare.main(options)
    start = record["objectives"]["mean_recall"]["the start"]["runs"][0]
    assert record["task"] == "text-classification" and start["mean_recall"] > 0.3
    assert json.loads((tmp_path / "out" / "compare.json").read_text()) == record
