"""A run that is killed at any moment goes on from its latest whole checkpoint and ends at the same weights."""

import killed
import pytest


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    known = {}

    def weights(kind):
        if kind not in known:
            folder = tmp_path_factory.mktemp(kind)
            process = killed.child(killed.train, kind, folder)
            process.join(120)
            assert process.exitcode == 0
            known[kind] = killed.weights_of(folder)
        return known[kind]

    return weights


@pytest.mark.parametrize("aimed", [False, True], ids=["at random", "while it writes"])
@pytest.mark.parametrize("kind", killed.KINDS)
def test_sigkill(kind, aimed, unbroken, tmp_path):
    weights, in_pieces = killed.survives(kind, tmp_path, 5, aimed)
    assert weights == unbroken(kind)
    assert in_pieces or not aimed
