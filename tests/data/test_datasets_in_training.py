"""Runs on collators of the user's own and on the datasets of torch and torchvision."""

import pytest
import tiny
import torch
from datasets import Dataset
from torch.utils.data import Subset
from torch_datasets import Mappings, Tuples
from transformers import (
    AutoImageProcessor,
    Siglip2Config,
    Siglip2ForImageClassification,
    Siglip2ImageProcessor,
    default_data_collator,
)

from selmix_hf import FixMatchTrainer, Stage1Trainer
from selmix_hf.data.views import CropAndFlip

GAIN = {"counts": tiny.GAIN_COUNTS, "seed": 1}
PATCHES = Siglip2ImageProcessor(patch_size=4, max_num_patches=16)


def tensors(dataset, label):
    """The images made pixel_values by the user, the label column renamed."""
    rows = dataset.map(lambda row: {"pixel_values": tiny.to_tensor(row["image"]).numpy()}, remove_columns="image")
    return rows.rename_column("label", label).with_format("torch")


def trained(folder, **options):
    run = tiny.trainer(folder, "convnext", max_steps=4, **{**tiny.BARE, **options})
    run.train()
    return run


def expected(folder, **options):
    return tiny.weights(trained(folder, **options))


@pytest.mark.parametrize("collator", [None, default_data_collator], ids=["ours", "the user's"])
@pytest.mark.parametrize("label", ["target", "kind"])
def test_a_label_column_of_any_name(label, collator, tmp_path):
    sets = {"train_dataset": tensors(tiny.images(), label), "gain_dataset": tensors(tiny.images(**GAIN), label)}
    run = trained(tmp_path / "run", data_collator=collator, label_column=label, **sets)
    assert tiny.largest_difference(tiny.weights(run), expected(tmp_path / "plain")) < 1e-6
    assert 0 <= run.evaluate()["eval_mean_recall"] <= 1


def test_an_image_column_of_any_name(tmp_path):
    train, gain = (data.rename_column("image", "picture") for data in (tiny.images(), tiny.images(**GAIN)))
    run = trained(tmp_path / "run", train_dataset=train, gain_dataset=gain)
    assert tiny.largest_difference(tiny.weights(run), expected(tmp_path / "plain")) == 0


@pytest.mark.parametrize("column", ["image", "label"])
def test_another_column_name_in_the_eval_set_is_refused_before_the_run(column, tmp_path):
    sentence = {
        "image": "expected the image of an example in 'image', as in the training and gain sets, found other, label",
        "label": "eval_dataset: a batch must have the classes as 'labels', found pixel_values, .* image, target",
    }
    other = tiny.images(**GAIN).rename_column(column, {"image": "other", "label": "target"}[column])
    with pytest.raises(ValueError, match=sentence[column]):
        tiny.trainer(tmp_path, eval_dataset=other)


@pytest.mark.parametrize("freeze", [False, True], ids=["whole", "frozen"])
def test_tuples_of_torchvision_train_as_a_dataset_does(freeze, tmp_path):
    transforms = {"train_transform": tiny.random_view, "eval_transform": tiny.to_tensor, "freeze_backbone": freeze}
    run = trained(tmp_path / "run", train_dataset=Tuples(), gain_dataset=Tuples(**GAIN), **transforms)
    assert tiny.largest_difference(tiny.weights(run), expected(tmp_path / "plain", **transforms)) == 0
    assert run.class_names == list(tiny.NAMES)
    test = Tuples((3, 3, 3, 3), seed=5)
    assert run.predict(test).predictions.shape == (12, 4) and "eval_min_recall" in run.evaluate(test)


def test_tuples_with_a_transform_of_their_own(tmp_path):
    views = {"transform": tiny.to_tensor}
    run = trained(tmp_path / "run", train_dataset=Tuples(**views), gain_dataset=Tuples(**GAIN, **views))
    assert tiny.largest_difference(tiny.weights(run), expected(tmp_path / "plain")) < 1e-6


def test_a_subset_of_tuples(tmp_path):
    sets = {"train_dataset": Subset(Tuples(), range(57)), "gain_dataset": Subset(Tuples(**GAIN), range(33))}
    run = trained(tmp_path / "run", **sets)
    assert tiny.largest_difference(tiny.weights(run), expected(tmp_path / "plain")) == 0


@pytest.mark.parametrize("label", ["label", "kind"])
def test_items_with_images_under_any_name(label, tmp_path):
    sets = {"train_dataset": Mappings(label=label), "gain_dataset": Mappings(**GAIN, label=label)}
    run = trained(tmp_path / "run", label_column=None if label == "label" else label, **sets)
    assert tiny.largest_difference(tiny.weights(run), expected(tmp_path / "plain")) == 0


@pytest.mark.parametrize(
    ("column", "values", "sentence"),
    [
        (
            "text",
            "some words",
            "gain_dataset: a batch has no input .* examples with text, label. Texts must be tokenis",
        ),
        ("path", "a.png", r"files of images become images by cast_column\(column, datasets.Image\(\)\)"),
        (
            "number",
            [[1.0, 2.0]],
            r"cannot be run on a batch of number \[2, 1, 2\].* main input is 'pixel_val.* no column",
        ),
        ("image", [[1.0, 2.0]], "images need processing_class"),
    ],
)
def test_what_is_no_input_is_refused_at_construction(column, values, sentence, tmp_path):
    rows = Dataset.from_list([{column: values, "label": k % 4} for k in range(8)])
    with pytest.raises(ValueError, match=sentence):
        tiny.trainer(tmp_path, "convnext", train_dataset=rows, gain_dataset=rows, processing_class=None)


def test_a_collator_without_labels_is_refused_at_construction(tmp_path):
    def collator(examples):
        return {"pixel_values": torch.stack([tiny.to_tensor(example["image"]) for example in examples])}

    with pytest.raises(
        ValueError, match="gain_dataset: a batch must have the classes as 'labels', found pixel_values"
    ):
        tiny.trainer(tmp_path, data_collator=collator)


def test_a_start_without_processing_class_says_what_the_saved_folder_lacks(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr("selmix_hf.training.checks.logger.warning", found.append)
    transforms = {"train_transform": tiny.to_tensor, "eval_transform": tiny.to_tensor}
    tiny.trainer(tmp_path / "without", **transforms)
    assert len(found) == 1 and "no preprocessor_config.json" in found[0] and "AutoImageProcessor" in found[0]
    run = tiny.trainer(tmp_path / "with", processing_class=tiny.processor(), **transforms)
    run.save_model(str(tmp_path / "saved"))
    AutoImageProcessor.from_pretrained(tmp_path / "saved")
    tiny.trainer(tmp_path / "timm", "test_resnet", **transforms)  # its config has what is needed
    assert len(found) == 1


def naflex():
    """A model for images of any shape, whose processor gives a mask and shapes beside the patches."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision = {**sizes, "num_patches": 16, "patch_size": 4, "vision_use_head": False}
    return Siglip2ForImageClassification(Siglip2Config(vision_config=vision, num_labels=4)).eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"freeze_backbone": True},
        {"reuse_samples": True, "train_transform": CropAndFlip(PATCHES, 8)},
    ],
    ids=["whole", "frozen", "views and reuse"],
)
def test_all_that_a_processor_gives_reaches_the_model(options, tmp_path):
    train = tiny.images().map(lambda row: {"image": row["image"].resize((16, 8))})  # the mask matters
    own = {"processing_class": PATCHES, "train_dataset": train, "max_steps": 2, "refresh_steps": 2}
    run = tiny.trainer(tmp_path, naflex(), **own, **options, **tiny.BARE)
    batch = run.data_collator.eval_collator([train[0], train[1]])
    assert {name: list(value.shape) for name, value in batch.items()} == {
        "pixel_values": [2, 16, 48],
        "pixel_attention_mask": [2, 16],
        "spatial_shapes": [2, 2],
        "labels": [2],
    }
    assert batch["pixel_attention_mask"].sum() < 32
    run.train()
    assert 0 <= run.evaluate()["eval_mean_recall"] <= 1


def test_what_needs_one_tensor_refuses_several(tmp_path):
    own = {"processing_class": PATCHES, "train_dataset": tiny.images()}
    with pytest.raises(ValueError, match="one floating-point tensor, .* found pixel_values .*, pixel_attention_mask"):
        tiny.trainer(tmp_path, naflex(), mixing="cutmix", **own)
    args = tiny.config(tmp_path, **tiny.BARE, max_steps=1)
    with pytest.raises(ValueError, match="pixel_values alone, found pixel_attention_mask, spatial_shapes too"):
        FixMatchTrainer(naflex(), args, unlabeled_dataset=tiny.unlabeled(), mu=1, **own)
    with pytest.raises(ValueError, match="mixup_alpha mixes inputs, .* tensors of floats .* pixel_attention_mask"):
        Stage1Trainer(naflex(), args, mixup_alpha=0.2, **own).train()
