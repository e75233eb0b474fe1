"""Objectives by name: head and tail, what is refused, what is registered."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selmix_hf.method import objective_names
from selmix_hf.method.objective_names import get_objective, register_objective, tail_classes

# recalls 1, 1/2, 1/4; each class 1/3 of the samples; coverages 7/12, 3/12, 2/12
COUNTS = torch.tensor([[8, 0, 0], [2, 4, 2], [4, 2, 2]])
CONFUSION = COUNTS.double() / 24


def value(name, confusion=CONFUSION, **options):
    return float(get_objective(name, **options).value(confusion))


# --- head and tail -----------------------------------------------------------------------------------------------


def test_min_head_tail_recall_means_over_the_groups():
    # tail: class 0 (recall 1); head: classes 1 and 2 (mean recall 3/8)
    assert value("min_head_tail_recall", class_counts=[5, 100, 50]) == pytest.approx(3 / 8)
    # tail of two thirds: classes 0 and 2 (mean 5/8); head: class 1
    assert value("min_head_tail_recall", class_counts=[5, 100, 50], tail_share=2 / 3) == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("counts", "share", "tail"),
    [
        ([50, 10, 20, 5], 0.25, [3]),
        ([50, 10, 20, 5], 0.5, [1, 3]),
        ([5, 5, 5, 5], 0.5, [2, 3]),  # ties go to the higher index
        ([5, 9, 5, 5], 0.25, [3]),
        ([5, 4, 3], 0.01, [2]),  # at least one
        ([5, 4, 3], 0.99, [1, 2]),  # never all
        (list(range(100, 0, -1)), 0.1, list(range(90, 100))),
    ],
)
def test_tail_classes(counts, share, tail):
    assert torch.nonzero(tail_classes(counts, share)).flatten().tolist() == tail


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(1, 20), min_size=2, max_size=30), share=st.floats(0.01, 0.99))
def test_the_tail_is_never_more_frequent_than_the_head(counts, share):
    mask, counts = tail_classes(counts, share), torch.tensor(counts)
    assert 1 <= int(mask.sum()) < len(counts)
    assert counts[mask].max() <= counts[~mask].min()


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_bad_tail_share(share):
    with pytest.raises(ValueError, match="tail_share must lie between 0 and 1"):
        tail_classes([3, 2, 1], share)


@pytest.mark.parametrize(
    ("name", "constraints"), [("min_head_tail_recall", None), ("g_mean", {"head_tail_coverage": 0.9})]
)
def test_head_and_tail_need_class_counts(name, constraints):
    with pytest.raises(ValueError, match="give class_counts"):
        get_objective(name, constraints)


def test_class_counts_of_another_length_are_refused():
    objective = get_objective("min_head_tail_recall", class_counts=[5, 3, 1])
    with pytest.raises(ValueError, match="class_counts has 3 entries, but there are 4 classes"):
        objective.value(torch.eye(4) / 4)


# --- options and registry ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "min_recal"}, r"unknown objective 'min_recal'; did you mean 'min_recall'\? Known: g_mean, h_mean"),
        ({"name": "zzz"}, "unknown objective 'zzz'; Known"),
        ({"name": "h_mean", "constraints": {"covrage": 0.9}}, "unknown constraint 'covrage'; did you mean 'coverage'"),
        ({"name": "h_mean", "constraints": {"coverage": 0.0}}, r"level of constraint 'coverage' must lie in \(0, 1\]"),
        ({"name": "h_mean", "constraints": {"coverage": 1.5}}, "found 1.5"),
        ({"name": "h_mean", "constraints": {"coverage": float("nan")}}, "found nan"),
        ({"name": "h_mean", "constraint_update": "adam"}, "constraint_update must be .* found 'adam'"),
        ({"name": "min_recall", "min_memory": 1.0}, r"min_memory must lie in \[0, 1\)"),
        (
            {"name": "h_mean", "worst_share": 0.0},
            r"worst_share must lie in \(0, 1\], found 0.0: 0.1 is the mean recall",
        ),
        ({"name": "worst_share_recall", "worst_share": 1.5}, r"worst_share must lie in \(0, 1\], found 1.5"),
        ({"name": "worst_share_recall", "worst_share": float("nan")}, "found nan"),
        ({"name": "min_recall", "min_rate": -1.0}, "min_rate must be a positive number, found -1.0"),
        ({"name": "h_mean", "constraint_rate": 0}, "constraint_rate must be a positive number, found 0"),
        (
            {"name": "h_mean", "constraints": "coverage"},
            "constraints must map names to levels, such as .* found 'coverage'",
        ),
        ({"name": "h_mean", "constraints": {"coverage": "a"}}, r"must lie in \(0, 1\], found 'a'"),
        ({"name": "h_mean", "class_prior": [1, -2, 3]}, "positive"),
        ({"name": "h_mean", "class_prior": "flat"}, "class_prior must be 'validation', 'balanced'"),
    ],
)
def test_bad_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        get_objective(**arguments)


def test_default_priors():
    assert get_objective("mean_recall").class_prior == "validation"
    assert get_objective("macro_f1").class_prior == "balanced"
    assert get_objective("mean_recall", {"coverage": 0.9}).class_prior == "balanced"
    assert get_objective("mean_recall", {"coverage": 0.9}, class_prior="validation").class_prior == "validation"
    assert get_objective("macro_f1", class_prior=[1, 2, 3]).class_prior == (1, 2, 3)


def test_names():
    assert get_objective("min_recall").name == "min_recall"
    assert get_objective("min_recall", {"coverage": 0.9}).name == "min_recall_coverage"
    built = get_objective("h_mean")
    assert get_objective(built) is built


def trace(confusion):
    return confusion.diagonal().sum()


def test_a_callable_with_constraints():
    objective = get_objective(trace, {"coverage": 0.8})
    assert objective.name == "trace_coverage" and objective.class_prior == "balanced"
    assert float(objective.value(CONFUSION)) == pytest.approx(14 / 24)
    got = objective.lagrangian(CONFUSION, {"coverage": torch.tensor([0.0, 0.0, 1.0])})
    assert float(got) == pytest.approx(14 / 24 - 0.3)
    assert set(objective.update_multipliers({}, COUNTS)) == {"coverage"}


def test_register_objective(monkeypatch):
    monkeypatch.setattr(objective_names, "OBJECTIVES", dict(objective_names.OBJECTIVES))
    with pytest.raises(ValueError, match="unknown objective 'trace'"):
        get_objective("trace")
    register_objective("trace", trace)
    assert value("trace") == pytest.approx(14 / 24)
    assert get_objective("trace", {"coverage": 0.9}).name == "trace_coverage"


def test_an_objective_keeps_its_own_constraints():
    own = get_objective("min_recall", {"coverage": 0.9})
    assert get_objective(own) is own and get_objective(own, {}) is own
    with pytest.raises(ValueError, match=r"has constraints and class_prior of its own: found constraints=.*0.95} bes"):
        get_objective(own, {"coverage": 0.95})
    with pytest.raises(ValueError, match="found class_prior='balanced' beside it. Leave them out"):
        get_objective(own, class_prior="balanced")


def test_constraints_and_functions_of_a_wrong_kind():
    with pytest.raises(ValueError, match=r"constraints must map names to levels, such as .*, found \['coverage'\]"):
        get_objective("min_recall", ["coverage"])
    with pytest.raises(TypeError, match=r"register_objective\('mine', ...\) takes a function psi\(C\), found 3"):
        register_objective("mine", 3)
