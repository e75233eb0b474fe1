"""Two processes do what one does with the same global batch: same pairs or samples, losses, P and weights."""

import os
import subprocess
import sys
from pathlib import Path

import distributed_run
import pytest
import tiny
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """The folder with what each process wrote. CPU processes may abort at exit: only the files count."""
    folder = tmp_path_factory.mktemp("two")
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d"]
    launcher += ["--rdzv_endpoint", "localhost:0", distributed_run.__file__, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *launcher], env=environment, capture_output=True, text=True, timeout=300)
    cases = [*distributed_run.CASES, *distributed_run.SINGLE_SAMPLES]
    missing = [case for case in cases if not (folder / f"{case}-1.pt").is_file()]
    assert not missing, f"{missing}: {done.stderr[-3000:]}"
    return folder


@pytest.mark.parametrize("case", distributed_run.CASES)
def test_two_processes_equal_one(case, two_processes, tmp_path):
    two = [torch.load(two_processes / f"{case}-{rank}.pt", weights_only=False) for rank in (0, 1)]
    one = distributed_run.run_case(tmp_path, case, batch=8)

    if "disk" in case:
        for folder, sets in ((two_processes, 2 if "nodes" in case else 1), (tmp_path, 1)):
            caches = sorted((folder / case).glob("cache-*"))
            files = [path.suffix for cache in caches for path in cache.iterdir()]
            assert len(caches) == sets and set(files) == {".safetensors"}
    for (counts, probability), (first, p), (second, q) in zip(one["counts"], *(x["counts"] for x in two), strict=True):
        assert int(counts.sum()) == sum(tiny.GAIN_COUNTS) == 33  # odd: nothing is padded, nothing seen twice
        assert torch.equal(first, counts) and torch.equal(second, counts)
        assert torch.equal(p, q) and torch.allclose(p, probability, atol=1e-6)
    assert len(one["draws"]) == 8
    for step, whole in enumerate(one["draws"]):
        parts = [process["draws"][step] for process in two]
        assert [part.shape for part in parts] == [(2, 4), (2, 4)]
        assert torch.equal(torch.cat(parts, 1), whole)
    assert two[0]["losses"] == pytest.approx(one["losses"], abs=1e-6) and len(set(one["losses"])) == 8
    for process in two:
        if "unlabelled" in case:
            assert len(one["pseudo_labels"]) == 39 and torch.equal(process["pseudo_labels"], one["pseudo_labels"])
        assert process["best"] == one["best"]
        assert len(process["fidelity"]) == 2
        for found, wanted in zip(process["fidelity"], one["fidelity"], strict=True):
            assert found == pytest.approx(wanted, abs=1e-4, rel=1e-4)
        assert tiny.largest_difference(process["weights"], one["weights"]) < 1e-6
        for moment in ("start", "end"):
            for name in ("eval_loss", "eval_accuracy", "eval_mean_recall", "eval_recall/grey", "eval_selection_score"):
                assert process[moment][name] == pytest.approx(one[moment][name], abs=1e-6)
    assert tiny.largest_difference(two[0]["weights"], two[1]["weights"]) == 0


@pytest.mark.parametrize("case", distributed_run.SINGLE_SAMPLES)
def test_single_samples_of_two_processes_are_those_of_one(case, two_processes, tmp_path):
    """What the two train on in a step is, laid side by side, what one does, none twice and none left out; a run on two
    processes that is resumed goes on with it."""
    two = [torch.load(two_processes / f"{case}-{rank}.pt") for rank in (0, 1)]
    one = distributed_run.run_single_samples(tmp_path, case, batch=16)["whole"]
    accumulation = distributed_run.SINGLE_SAMPLES[case].get("gradient_accumulation_steps", 1)
    for name, steps in (("whole", 8), ("resumed", 3)):
        draws = one["draws"][-steps * accumulation :]
        assert sum(draw.shape[1] for draw in draws) == 16 * steps
        for process in two:
            assert len(process[name]["draws"]) == steps * accumulation
        for number, drawn in enumerate(draws):
            parts = torch.cat([process[name]["draws"][number] for process in two], 1)
            assert torch.equal(parts[0], drawn[0])
            torch.testing.assert_close(parts[1], drawn[1], atol=1e-4, rtol=1e-5)
        for process in two:
            assert len(one["losses"]) == 3 and process[name]["losses"] == pytest.approx(one["losses"], abs=1e-5)
            assert tiny.largest_difference(process[name]["weights"], one["weights"]) < 1e-6
        assert tiny.largest_difference(two[0][name]["weights"], two[1][name]["weights"]) == 0
    assert tiny.largest_difference(two[0]["whole"]["weights"], two[0]["resumed"]["weights"]) == 0
