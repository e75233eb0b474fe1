"""A run that is killed at any moment goes on from its latest whole checkpoint and ends at the same weights."""

import random
import signal

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


CASES = [(kind, aimed) for kind in killed.KINDS for aimed in (False, True)]
FAST = ("selmix", True)


@pytest.mark.parametrize(
    ("kind", "aimed"),
    [pytest.param(*case, marks=[] if case == FAST else pytest.mark.slow) for case in CASES],
    ids=[f"{kind} {'while it writes' if aimed else 'at random'}" for kind, aimed in CASES],
)
def test_sigkill(kind, aimed, unbroken, tmp_path):
    weights, in_pieces = killed.survives(kind, tmp_path, 5, aimed)
    assert weights == unbroken(kind)
    assert in_pieces or not aimed


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_one_of_two_processes(rank, tmp_path):
    """The one that is killed writes, or waits for the other to write; a launcher ends the other."""
    generator = random.Random(rank)
    for _ in range(3):
        processes = killed.two(killed.train, "selmix", tmp_path / "killed")
        killed.kill_while_writing(processes[rank], generator, tmp_path / "killed")
        killed.end(processes[1 - rank])
    for folder in ("killed", "whole"):
        for process in killed.two(killed.train, "selmix", tmp_path / folder):
            process.join(120)
            assert process.exitcode == 0
    assert killed.weights_of(tmp_path / "killed") == killed.weights_of(tmp_path / "whole")


@pytest.mark.slow
def test_fifty_resumes_in_a_row(tmp_path):
    """A run of many hours in small: each part of it is killed at a random moment."""
    generator, many = random.Random(0), {"max_steps": 600}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    processes = [killed.child(killed.train, "selmix", whole, **many)]
    for _ in range(50):
        part = killed.child(killed.train, "selmix", parts, **many)
        killed.kill_at_random(part, generator, 2.0)
        assert part.exitcode == -signal.SIGKILL
    processes.append(killed.child(killed.train, "selmix", parts, **many))
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    assert killed.weights_of(parts) == killed.weights_of(whole)
