"""What cards share."""

import pytest

from selmix_hf.data.modality import samples_of
from selmix_hf.hub.card_frame import fill, has_pipeline, task_of
from selmix_hf.reports.tables import said_of


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


@pytest.mark.parametrize(
    ("sentence", "of_texts"),
    [
        (
            "class 'images' (3) has 12 images, but 8 for training",
            "class 'images' (3) has 12 texts, but 8 for training",
        ),
        ("leaves 2 classes without an image", "leaves 2 classes without a text"),
        ("without an unlabelled image; it can be 1/4", "without an unlabelled text; it can be 1/4"),
        ("Images that steer", "Texts that steer"),
        ("image_column of imagery", "image_column of imagery"),
    ],
)
def test_a_sentence_on_images_said_of_others(sentence, of_texts):
    assert said_of("texts", sentence) == of_texts and said_of("images", of_texts) == of_texts


def test_tasks_that_a_pipeline_knows():
    known = {task: has_pipeline(task) for task in ("text-classification", "fill-mask", "tabular-classification")}
    assert known == {"text-classification": True, "fill-mask": True, "tabular-classification": False}


VALUES = ("name", "summary", "results", "use", "objective", "samples", "classes", "settings", "versions")
SOMETIMES = ("plots", "digest", "command", "hardware")


def test_a_template_is_filled_and_a_line_about_nothing_left_out():
    values = {name: f"<{name} $x>" for name in VALUES}
    whole = fill("card.md", values | {name: f"<{name}>" for name in SOMETIMES})
    assert all(f"<{name}" in whole for name in (*VALUES, *SOMETIMES))
    short = fill("card.md", values | dict.fromkeys(SOMETIMES))
    gone = [line for line in whole.splitlines() if line not in short.splitlines()]
    assert gone == ["<plots>", "- split: digest `<digest>`", "- command: `<command>`", "- hardware: <hardware>"]
    assert "\n\n\n" not in short and "None" not in short
    with pytest.raises(KeyError, match="name"):
        fill("card.md", {})
