"""A recipe ends with a sentence where the user can help it, and with a traceback where not."""

from types import SimpleNamespace

import pytest

from selmix_hf.studies.errors import leaving_with_a_sentence, naming_a_broken_image


@pytest.mark.parametrize("kind", [ValueError, TypeError, FileNotFoundError])
def test_what_is_wrong_is_a_sentence(kind):
    with pytest.raises(SystemExit, match="^mine.py: no such split$"), leaving_with_a_sentence("mine.py"):
        raise kind("no such split")


def test_what_the_user_cannot_help_is_a_traceback():
    with pytest.raises(KeyError), leaving_with_a_sentence("mine.py"):
        raise KeyError("x")


@pytest.mark.parametrize("kind", [OSError, SyntaxError])
def test_an_image_that_cannot_be_decoded_is_named(kind):
    data = SimpleNamespace(broken_image=lambda: "the split train has a broken image in row 3")
    with pytest.raises(SystemExit, match="mine.py: .* in row 3"), naming_a_broken_image("mine.py", data):
        raise kind("truncated")


def test_other_errors_of_files_are_not_blamed_on_an_image():
    data = SimpleNamespace(broken_image=lambda: pytest.fail("a look for a broken image"))
    with pytest.raises(OSError, match="No space"), naming_a_broken_image("mine.py", data):
        raise OSError(28, "No space left on device")
    whole = SimpleNamespace(broken_image=lambda: None)
    with pytest.raises(OSError, match="truncated"), naming_a_broken_image("mine.py", whole):
        raise OSError("truncated")
