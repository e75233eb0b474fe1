"""What cards share."""

import pytest

from selmix_hf.card_parts import samples_of, task_of


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("ViTForImageClassification", "image-classification"),
        ("DeiTForImageClassificationWithTeacher", "image-classification"),
        ("TimmWrapperForImageClassification", "image-classification"),
        ("BertForSequenceClassification", "text-classification"),
        ("Wav2Vec2ForSequenceClassification", "audio-classification"),
        ("MyOwnModel", None),
    ],
)
def test_the_task_of_a_model(architecture, task):
    assert task_of(architecture) == task


def test_what_the_samples_of_a_task_are_called():
    tasks = ("image-classification", "text-classification", "audio-classification", "tabular-classification", None)
    assert [samples_of(task) for task in tasks] == ["images", "texts", "recordings", "samples", "samples"]
