"""Options of a start that contradict each other, or the samples."""

from types import SimpleNamespace

import pytest
import tiny
import torch
from datasets import DatasetDict

from selmix_hf.data.classes import set_class_names
from selmix_hf.data.modality import Images, Texts
from selmix_hf.studies.data import BenchmarkData
from selmix_hf.studies.start import BenchmarkArguments, SemiSupervisedStart, load_start, refuse_options_of_images


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        (BenchmarkArguments, {"image_size": 0}, "image_size must be at least 1, found 0"),
        (BenchmarkArguments, {"stage1_steps": -1}, "stage1_steps must be at least 0, found -1"),
        (BenchmarkArguments, {"stage1_learning_rate": 0.0}, "stage1_learning_rate must be positive, found 0.0"),
        (BenchmarkArguments, {"seeds": [1, 1]}, r"seeds must differ .* found \[1, 1\]"),
        (SemiSupervisedStart, {"stage1_method": "mixup"}, "must be one of supervised, fixmatch, .* found 'mixup'"),
        (SemiSupervisedStart, {"stage1_method": "supervised", "stage1_mu": 2}, "stage1_mu is for unlabelled images"),
        (SemiSupervisedStart, {"stage1_mixup_alpha": 0.2}, "stage1_mixup_alpha is for stage1_method=supervised"),
        (SemiSupervisedStart, {"stage1_sampling": "0.5"}, "stage1_sampling is for stage1_method=supervised"),
        (SemiSupervisedStart, {"stage1_method": "mixmatch", "stage1_threshold": 0.9}, "stage1_threshold is FixMatch"),
    ],
)
def test_options_that_cannot_be(kind, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        kind(model_name_or_path="m", **options)


@pytest.mark.parametrize(
    ("options", "mixing", "name"),
    [
        ({"augment": True}, "feature", "augment"),
        ({"stage1_mixup_alpha": 0.1}, "feature", "stage1_mixup_alpha"),
        ({}, "cutmix", "mixing"),
        ({}, "input", "mixing"),
    ],
)
def test_options_of_images_for_texts(options, mixing, name):
    arguments, config = BenchmarkArguments(model_name_or_path="m", **options), SimpleNamespace(mixing=mixing)
    refuse_options_of_images(arguments, config, SimpleNamespace(modality=Images()))
    with pytest.raises(ValueError, match=f"{name} is for images, and these data are for text-classification"):
        refuse_options_of_images(arguments, config, SimpleNamespace(modality=Texts()))


def test_the_outputs_of_a_start_stand_in_the_order_of_the_data(tmp_path):
    """Whatever looks at logits and labels then has the same numbers, with a trainer or without."""
    model = tiny.model("vit").eval()
    set_class_names(model.config, ["grey", "blue", "green", "red"])
    model.save_pretrained(tmp_path)
    tiny.processor().save_pretrained(tmp_path)
    data = BenchmarkData(DatasetDict(train=tiny.images(), test=tiny.images((1, 1, 1, 1))), "", "squares")
    start, _processor = load_start(BenchmarkArguments(model_name_or_path=str(tmp_path)), data, str(tmp_path))
    pixels = {"pixel_values": torch.randn(2, 3, tiny.SIDE, tiny.SIDE)}
    assert torch.allclose(start.eval()(**pixels).logits, model(**pixels).logits.flip(1), atol=1e-6)
    assert list(start.config.id2label.values()) == list(tiny.NAMES)
