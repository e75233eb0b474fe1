"""A recipe ends with a sentence where the user can help it, and with a traceback where not."""

from types import SimpleNamespace

import bad_pictures
import pytest
import tiny

from selmix_hf.data.seeded import fetch
from selmix_hf.studies.errors import leaving_with_a_sentence, naming_a_broken_image


@pytest.mark.parametrize("kind", [ValueError, TypeError, FileNotFoundError])
def test_what_is_wrong_is_a_sentence(kind):
    with pytest.raises(SystemExit, match="^mine.py: no such split$"), leaving_with_a_sentence("mine.py"):
        raise kind("no such split")


def test_what_the_user_cannot_help_is_a_traceback():
    with pytest.raises(KeyError), leaving_with_a_sentence("mine.py"):
        raise KeyError("x")


def test_an_image_that_cannot_be_decoded_is_named():
    splits = {"train": tiny.images((1, 1, 1, 1)), "test": bad_pictures.images({2: b"no image"})}
    named = pytest.raises(SystemExit, match=r"mine.py: the split test: row 2 \(bytes of row 2\) has no image")
    with named, naming_a_broken_image("mine.py", SimpleNamespace(splits=splits)):
        fetch(splits["test"], [1, 2])


def test_other_errors_of_files_are_not_blamed_on_an_image():
    with (
        pytest.raises(OSError, match="No space"),
        naming_a_broken_image("mine.py", SimpleNamespace(splits={"train": tiny.images((1, 1, 1, 1))})),
    ):
        raise OSError(28, "No space left on device")
