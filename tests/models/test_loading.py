"""A checkpoint of other classes gets a new head and keeps their names; what cannot be loaded gets a sentence."""

import pyarrow.parquet
import pytest
import texts
import timm
import tiny
import torch
from datasets import Image
from miniature import save_checkpoint
from transformers import AutoModelForImageClassification, BertModel

from selmix_hf.data.modality import Texts
from selmix_hf.models.loading import knows_classes, load_classifier, load_for_classes, load_images


def native(folder):
    model = tiny.model("vit", num_classes=2)
    model.save_pretrained(folder)
    tiny.processor().save_pretrained(folder)
    return model.vit.layernorm.weight


def wrapped(folder):
    save_checkpoint(folder, ["a", "b"])
    return AutoModelForImageClassification.from_pretrained(folder).timm_model.stem.conv.weight


def pure_timm(folder):
    """As timm saves it; with the number of classes among its model_args, which transformers stumbles over."""
    model = timm.create_model("test_byobnet", num_classes=7)
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return model.stem.conv.weight


@pytest.mark.parametrize("make", [native, wrapped, pure_timm])
def test_a_head_for_other_classes(make, tmp_path):
    of_backbone = make(tmp_path / "old")
    model, processor = load_for_classes(str(tmp_path / "old"), tiny.NAMES)
    assert processor is not None
    model.save_pretrained(tmp_path / "new")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "new")
    assert again.config.id2label == dict(enumerate(tiny.NAMES))
    side = tiny.SIDE if make is native else 64
    assert again.eval()(torch.zeros(1, 3, side, side)).logits.shape == (1, 4)
    assert any(torch.equal(weight, of_backbone) for weight in again.parameters())
    assert knows_classes(str(tmp_path / "new"), tiny.NAMES[::-1]) and not knows_classes(str(tmp_path / "new"), "abcd")


def test_nothing_there():
    for call in (knows_classes, load_for_classes):
        with pytest.raises(FileNotFoundError, match="no image classifier .* could be loaded from 'nobody/model'"):
            call("nobody/model", tiny.NAMES)


@pytest.mark.parametrize("nothing", [None, {"bytes": None, "path": None}], ids=["no value", "an empty one"])
def test_a_row_without_an_image_is_named(nothing, tmp_path):
    images = tiny.images((3, 3, 3, 3)).cast_column("image", Image(decode=False))
    images.to_parquet(tmp_path / "train.parquet")
    assert len(load_images(str(tmp_path), test="train")["train"]) == 12
    table = pyarrow.parquet.read_table(tmp_path / "train.parquet")
    rows = [nothing if row in (5, 7) else image for row, image in enumerate(table["image"].to_pylist())]
    place, column = table.schema.get_field_index("image"), pyarrow.array(rows, table.schema.field("image").type)
    table = table.set_column(place, table.schema.field("image"), column)
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(
        ValueError, match=r"the split train .* no image in row 5 of its column 'image' \(2 such rows of 12"
    ):
        load_images(str(tmp_path), test="train")


def test_a_checkpoint_of_something_else(tmp_path):
    checkpoint = str(texts.save_model(tmp_path / "checkpoint"))
    with pytest.raises(ValueError, match="tells 3 classes apart, the data have 2 names"):
        load_classifier(checkpoint, ["a", "b"], modality=Texts())
    with pytest.raises(FileNotFoundError, match="no text classifier with its tokenizer could be loaded from 'nobody/"):
        load_classifier("nobody/model", texts.NAMES, modality=Texts())
    tiny.model("vit").save_pretrained(tmp_path / "vit")
    with pytest.raises(FileNotFoundError, match="no text classifier with its tokenizer could be loaded from .*vit"):
        load_classifier(str(tmp_path / "vit"), texts.NAMES, modality=Texts())


def test_a_language_model_gets_a_head_and_a_pooler_but_no_backbone(tmp_path):
    """Language models are published without the layers of a classifier; all else must be there."""
    data, modality = texts.texts((1, 1, 1)), Texts()

    def load(model):
        model.save_pretrained(tmp_path / "base")
        texts.tokenizer().save_pretrained(tmp_path / "base")
        probe = {"probe": lambda tokenizer: modality.probe(tokenizer, data, "label")}
        return load_for_classes(str(tmp_path / "base"), texts.NAMES, modality=modality, **probe)[0]

    whole = texts.bert()
    model = load(BertModel(whole.config, add_pooling_layer=False))
    assert model.config.id2label == dict(enumerate(texts.NAMES)) and model.classifier.out_features == 3
    damaged = BertModel(whole.config)
    del damaged.encoder.layer[0].output
    with pytest.raises(ValueError, match="lacks 4 weights of the backbone, .*bert.encoder.layer.0.output"):
        load(damaged)


def test_the_test_split_is_read_by_name(tmp_path):
    """load_dataset gives all files the class names of the first, whatever their own are."""
    train, test = tiny.images((3, 3, 3, 3)), tiny.images((1, 2, 3, 4), 1)
    train.to_parquet(tmp_path / "train.parquet")
    tiny.renamed(test, ["grey", "blue", "green", "red"]).to_parquet(tmp_path / "test.parquet")
    found = load_images(str(tmp_path))["test"]
    assert found["label"][:] == test["label"][:] and found.features == test.features
    tiny.images((1, 1, 1, 1), names=("green", "grey", "red", "sky")).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(
        ValueError, match=r"test.parquet and train.parquet number their classes differently: 'green' is"
    ):
        load_images(str(tmp_path))
