"""The suite of natural long tails on a start of three classes: what it measures, keeps and shows."""

import json

import pytest
import torch

from benchmarks import natural, natural_report
from benchmarks.natural_starts import Start, few_of_each, probed


def samples(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    return 2 * torch.eye(3)[labels] + torch.randn(len(labels), 3, generator=generator), labels


@pytest.fixture(scope="module")
def start():
    sets = samples((60, 20, 5), 0), samples((9, 9, 3), 1), samples((30, 30, 30), 2)
    return Start(*sets, head=(torch.zeros(3, 3), torch.tensor([1.0, 0.0, 0.0])))


@pytest.fixture(scope="module")
def record(start, tmp_path_factory):
    path = tmp_path_factory.mktemp("natural") / "results" / "three.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(natural, "DEFAULTS", {**natural.DEFAULTS, "max_steps": 20, "refresh_steps": 10})
        patch.setattr(natural, "BY_TRAINER", {**natural.BY_TRAINER, natural_report.BEFORE: {"head_start": "as_is"}})
        natural.measure("three", start, natural.OBJECTIVES, (0,), path)
        before = path.read_text()
        patch.setattr(natural, "by_trainer", lambda *args: pytest.fail("measured already"))
        natural.measure("three", start, natural.OBJECTIVES, (0,), path)
        assert path.read_text() == before
    return json.loads(before)


def test_every_method_is_measured_on_the_test_set(record, start):
    assert record["num_classes"] == 3
    assert record["samples"] == {"train": [5, 60], "gain": [3, 9], "test": [30, 30]}
    assert record["before"]["mean_recall"] == pytest.approx(1 / 3) and record["before"]["zero_recall_classes"] == 2
    assert set(record["methods"]) == set(natural_report.METHODS)
    for method, of_method in record["methods"].items():
        expected = ["mean_recall"] if method == "uniform pairs" else list(natural.OBJECTIVES)
        assert list(of_method) == expected
        for runs in of_method.values():
            assert runs["0"]["mean_recall"] > 0.5 or method == natural_report.BEFORE
    assert 0 < record["standard_error"] < 0.1


def test_tables_have_a_row_a_start_and_the_picture_is_drawn(record, tmp_path):
    for objective in natural.OBJECTIVES:
        lines = natural_report.summary_table([record], objective).splitlines()
        assert len(lines) == 3 and lines[2].startswith("| three") and "3–9" in lines[2]
    texts = natural_report.single_table(record).splitlines()
    assert len(texts) == 2 + 2 * len(natural_report.METHODS) - 1  # uniform pairs for the first objective alone
    selmix = record["methods"]["SelMix"]["mean_recall"]["0"]["mean_recall"]
    assert f"{selmix:.3f}".removeprefix("0") in natural_report.readme_table([record])
    natural_report.save_plot([record], tmp_path / "natural.png")
    assert (tmp_path / "natural.png").stat().st_size > 5000


def test_few_of_each_takes_the_first():
    features = torch.arange(6.0)[:, None]
    found = few_of_each((features, torch.tensor([1, 0, 1, 1, 0, 2])), 2)
    assert found[0].flatten().tolist() == [0, 1, 2, 4, 5] and found[1].tolist() == [1, 0, 1, 0, 2]


def test_a_probe_learns_from_the_training_set_alone(start):
    head = probed(start, 3).head
    predicted = (start.train[0] @ head[0].T + head[1]).argmax(1)
    assert float((predicted == start.train[1]).float().mean()) > 0.8
