"""What a text classifier is loaded as, and what its texts become."""

import hashlib

import bad_pictures
import pytest
import texts
import tiny
import torch
from datasets import Dataset, Features
from transformers import AutoTokenizer

from selmix_hf.data.modality import Images, Texts
from selmix_hf.models.loading import load_classifier


@pytest.fixture
def checkpoint(tmp_path):
    return str(texts.save_model(tmp_path / "checkpoint"))


def test_half_precision_is_not_kept(checkpoint):
    assert texts.bert().from_pretrained(checkpoint).dtype == torch.float16
    model, tokenizer = load_classifier(checkpoint, texts.NAMES, modality=Texts())
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert model.config.id2label == dict(enumerate(texts.NAMES)) and tokenizer.pad_token == "[PAD]"


def test_an_image_classifier_in_half_precision_neither(tmp_path):
    tiny.model("vit").to(torch.float16).save_pretrained(tmp_path)
    tiny.processor().save_pretrained(tmp_path)
    assert load_classifier(str(tmp_path), tiny.NAMES)[0].dtype == torch.float32


def test_texts_become_tokens_once_and_are_cut(checkpoint):
    data = texts.texts((1, 1, 1))
    row = data.add_item({"text": "web " * 40, "label": 2}).select([3])
    for asked, length in ((None, 32), (6, 6)):  # the tiny model has 32 positions
        modality = Texts(max_length=asked)
        _model, tokenizer = load_classifier(checkpoint, texts.NAMES, modality=modality)
        (tokens,) = modality.prepared(row, tokenizer)["input_ids"]
        web = texts.WORDS.index("web")
        assert tokens == [1, *[web] * (length - 2), 2]
        tokenizer.save_pretrained(f"{checkpoint}/again")
        assert AutoTokenizer.from_pretrained(f"{checkpoint}/again").model_max_length == length


def test_a_tokenizer_that_lies_elsewhere_gives_the_same_dataset(checkpoint, tmp_path):
    data, prints = texts.texts((2, 2, 2)), []
    texts.save_model(tmp_path / "other")
    for folder, length in ((checkpoint, None), (checkpoint, None), (tmp_path / "other", None), (checkpoint, 6)):
        modality = Texts(max_length=length)
        tokenizer = load_classifier(str(folder), texts.NAMES, modality=modality)[1]
        prints.append([modality.prepared(data, tokenizer)._fingerprint for _ in range(2)])
    assert prints[0] == prints[1] == prints[2] and len({*prints[0], *prints[3]}) == 2


@pytest.mark.parametrize(
    ("max_length", "change", "sentence"),
    [
        (2, {}, "max_length must lie between 3 and 32 for this model and its tokenizer, found 2"),
        (33, {}, "max_length must lie between 3 and 32 for this model and its tokenizer, found 33"),
        (20, {"model_max_length": 16}, "max_length must lie between 3 and 16 .*, found 20"),
        (None, {"pad_token": None}, "the tokenizer has no padding token"),
    ],
)
def test_what_does_not_suit_is_refused(max_length, change, sentence, checkpoint):
    texts.tokenizer(**change).save_pretrained(checkpoint)
    with pytest.raises(ValueError, match=sentence):
        load_classifier(checkpoint, texts.NAMES, modality=Texts(max_length=max_length))


def test_a_checkpoint_without_its_tokenizer(tmp_path):
    """transformers makes one that knows no word, unsaid."""
    texts.bert().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the tokenizer knows 5 tokens and the model 15: save the one that the model"):
        load_classifier(str(tmp_path), texts.NAMES, modality=Texts())


def test_digests_are_of_the_content(tmp_path):
    data = texts.texts((1, 1, 0))
    assert list(Texts().digests(data)) == [hashlib.sha256(text.encode()).hexdigest() for text in data["text"]]
    images = tiny.images((1, 1, 1, 0))
    images.to_parquet(tmp_path / "images.parquet")
    again = type(images).from_parquet(str(tmp_path / "images.parquet"))
    assert list(Images().digests(images)) == list(Images().digests(again)) and len({*Images().digests(again)}) == 3


def test_columns_of_pixels():
    """As the files of MedMNIST hold them: what is missing is seen, and what is alike has one digest."""
    pixels = bad_pictures.arrays((2, 1, 1, 1))
    pixels[1] = pixels[0]
    rows = Dataset.from_dict({"image": pixels, "label": [0, 0, 1, 2, 3]})
    Images().check(rows, "mine")
    first, second, *others = Images().digests(rows)
    assert first == second and len({first, *others}) == 4
    lacking = Dataset.from_dict(
        {"image": [*pixels.tolist(), None]}, features=Features({"image": rows.features["image"]})
    )
    with pytest.raises(ValueError, match="mine has no image in row 5 of its column 'image'"):
        Images().check(lacking, "mine")
