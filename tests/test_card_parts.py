"""What cards share."""

import pytest

from selmix_hf.card_parts import task_of


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
