"""What a run begins with: the learning rate and the head, by heads retrained side by side."""

import pytest
import torch
import torch.nn.functional as F
from transformers import TrainerCallback

from selmix_hf.head_fitting.side_by_side import FittedHead
from selmix_hf.method.objective_names import get_objective
from selmix_hf.training.head_start import (
    RATES,
    HeadStart,
    Tried,
    best_by,
    learning_rate_of,
    mean_squared_norm,
    retrained_heads,
)
from tests import tiny

WORKED_OUT = {"learning_rate": None, "backbone_learning_rate": None, "head_start": "best", "objective": "mean_recall"}
BOTH = pytest.mark.parametrize("freeze", [True, False], ids=["frozen", "whole"])


class Looked(TrainerCallback):
    """Keeps the gain of the first look."""

    def __init__(self, found):
        self.found = found

    def on_refresh(self, trainer):
        stored = trainer.gain_set.features()
        self.found |= {"gain": trainer.gain.clone(), "padding": trainer.gain_set.padding}
        self.found |= {"features": stored.take(slice(None)), "labels": stored.labels}


def tried(rate, *hits, turned=0):
    """Of ten samples a class the first so many hit, counted from `turned` on, the others taken for the next class."""
    labels = torch.arange(len(hits)).repeat_interleave(10)
    missed = torch.stack([torch.arange(10).roll(turned) >= number for number in hits]).flatten()
    head = FittedHead("logit_adjusted", rate, torch.empty(len(hits), 1), torch.empty(len(hits)))
    return Tried(head, labels, (labels + missed) % len(hits))


def test_the_rate_is_the_lowest_that_is_a_standard_error_behind_the_best():
    best = tried(6.4, 5, 10)
    # a sample more in each of two classes of ten: 2 / 20 behind, known up to sqrt(2) / 20
    assert tried(1.6, 4, 9).behind(best) == pytest.approx((0.1, 2**0.5 / 20))
    assert tried(1.6, 4, 10).behind(best) == pytest.approx((0.05, 0.05))
    # on other samples the same numbers of hits say less
    assert tried(1.6, 4, 9, turned=5).behind(best) == pytest.approx((0.1, (4 + 5 + 1) ** 0.5 / 20))
    assert learning_rate_of([tried(0.1, 4, 9), tried(0.4, 4, 10), best], 4.0) == pytest.approx(4 * 0.4)
    assert learning_rate_of([tried(0.4, 3, 10), tried(1.6, 4, 9), best], 4.0) == pytest.approx(4 * 6.4)
    assert learning_rate_of([tried(0.1, 4, 9, turned=5), best], 4.0) == pytest.approx(4 * 0.1)


def test_the_head_is_the_best_by_the_objective():
    heads = [tried(0.1, 4, 5), tried(0.4, 3, 9)]
    assert best_by(get_objective("min_recall"), heads) is heads[0]
    assert best_by(get_objective("mean_recall"), heads) is heads[1]


def test_rates_follow_the_size_of_the_features():
    features, labels = torch.randn(40, 5) * 10, torch.arange(40) % 4
    assert mean_squared_norm(features) == pytest.approx(float((features**2).sum(1).mean()), rel=1e-5)
    found = retrained_heads(features, labels, features, labels, 4)
    expected = [rate / mean_squared_norm(features) for rate in RATES]
    assert [one.head.learning_rate for one in found] == pytest.approx(expected * 2)
    for one in found:
        predicted = (features @ one.head.weight.T + one.head.bias).argmax(1)
        assert one.mean_recall == pytest.approx(float((predicted == labels).float().mean()))
        assert int(one.counts.sum()) == 40 and len(one.counts) == 4


@BOTH
def test_a_better_head_is_what_the_run_begins_with(freeze, tmp_path):
    run = tiny.trainer(tmp_path, freeze_backbone=freeze, **WORKED_OUT, lr_scheduler_type="cosine")
    own = run.head.weight
    run.train()
    start, begun = [log for log in run.state.log_history if log["step"] == 0 and "eval_psi" in log]
    assert begun["eval_psi"] > start["eval_psi"] + 0.2
    first = next(log for log in run.state.log_history if "gain_set_psi" in log)
    assert first["gain_set_psi"] == begun["eval_psi"]
    assert run.state.best_metric >= begun["eval_psi"]
    counts = run.pair_state.start_counts  # of the model as it was given
    assert float((counts.diagonal() / counts.sum(1)).mean()) == pytest.approx(start["eval_mean_recall"])
    assert not torch.equal(own, run.head.weight)
    assert run.args.learning_rate > 0 and run.args.backbone_learning_rate == pytest.approx(1e-4)


@BOTH
def test_the_rate_goes_with_the_pairs_of_a_step_and_is_lower_where_all_weights_train(freeze, tmp_path):
    run = tiny.trainer(tmp_path, freeze_backbone=freeze, **{**WORKED_OUT, **tiny.BARE, "max_steps": 1})
    norm = mean_squared_norm(run.passes.some_of_each(run.sets.train, run.sets.train_labels, 500).take(slice(None)))
    factor = 4 * 8 / 64 * (1 if freeze else 0.3)  # 8 pairs a step
    start = HeadStart.of(run)
    assert any(start.learning_rate == pytest.approx(factor * rate / norm, rel=1e-4) for rate in RATES)


def test_a_given_rate_and_head_stay(tmp_path):
    run = tiny.trainer(tmp_path, freeze_backbone=True, learning_rate=0.025, head_start="as_is", max_steps=1)
    weight = run.head.weight
    run.is_new_best = lambda: torch.testing.assert_close(run.head.weight, weight) or True
    run.train()
    assert run.args.learning_rate == 0.025 and run.head_start is None


def test_options_of_one_config_serve_runs_of_their_own(tmp_path):
    config = tiny.config(tmp_path, **{**WORKED_OUT, "max_steps": 0, "refresh_steps": 0}, freeze_backbone=True)
    run = tiny.trainer(tmp_path)
    made = type(run)(
        tiny.model("resnet"),
        config,
        train_dataset=run.train_dataset,
        gain_dataset=run.gain_dataset,
        processing_class=run.processing_class,
    )
    assert (config.max_steps, made.args.max_steps) == (0, 16_000)  # 128,000 pairs, 8 a step
    assert (config.refresh_steps, made.args.refresh_steps) == (0, 80)


def test_the_model_s_own_head_is_put_back_where_the_set_that_chooses_disagrees(tmp_path):
    run = tiny.trainer(tmp_path, **WORKED_OUT, freeze_backbone=True, max_steps=1)
    start, own = HeadStart.of(run), run.head.weight
    run.pair_state.start_counts = run.gain_set_statistics().counts.cpu()
    start.begin(run, lambda: False)
    assert torch.equal(run.head.weight, own)
    start.begin(run, lambda: True)
    torch.testing.assert_close(run.head.weight, start.retrained.head.weight)


def test_a_worse_head_is_not_tried(tmp_path):
    run = tiny.trainer(tmp_path, **WORKED_OUT, freeze_backbone=True, max_steps=1)
    start, own = HeadStart.of(run), run.head.weight
    run.pair_state.start_counts = 10 * torch.eye(4, dtype=torch.long)
    start.begin(run, lambda: pytest.fail("nothing to evaluate"))
    assert torch.equal(run.head.weight, own)


def test_a_resumed_run_goes_on_at_the_rate_that_was_worked_out(tmp_path):
    options = {**WORKED_OUT, "freeze_backbone": True, "save_strategy": "epoch", "save_total_limit": 9}
    whole = tiny.trainer(tmp_path / "whole", **options)
    whole.train()
    resumed = tiny.trainer(tmp_path / "whole", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert resumed.args.learning_rate == whole.args.learning_rate
    assert tiny.largest_difference(tiny.weights(whole), tiny.weights(resumed)) == 0
    assert tiny.losses(resumed)[4:] == tiny.losses(whole)[4:]


@BOTH
def test_the_gain_of_a_run_is_that_of_the_soft_matrix(freeze, tmp_path):
    """At the first look, against autograd through the head on features of the whole gain set, filled up to 20."""
    run = tiny.trainer(tmp_path, freeze_backbone=freeze, objective="h_mean", max_steps=1, **tiny.BARE)
    weight, bias = run.head.weight.double(), run.head.bias.double()
    found = {}
    run.add_callback(Looked(found))
    run.train()
    features, labels = found["features"], found["labels"]
    if freeze:
        missing = [20 - int((labels == k).sum()) for k in range(4)]
        assert len(found["padding"].labels) == sum(
            min(max(n, 0), int((torch.as_tensor(run.sets.train_labels) == k).sum())) for k, n in enumerate(missing)
        )
        features = torch.cat([features, found["padding"].features])
        labels = torch.cat([labels, found["padding"].labels])
    features = features.double()
    head = [weight.requires_grad_(), bias.requires_grad_()]
    probability = torch.softmax((features @ head[0].T + head[1]) / 0.3, 1)
    rows = []
    for k in range(4):
        of_class = probability[labels == k]
        half = torch.full((4,), 0.5 / 3, dtype=torch.float64)
        half[k] = 0.5
        rows.append((of_class.sum(0) + half) / (len(of_class) + 1))
    recall = torch.stack(rows).diagonal()
    gradient = torch.autograd.grad(4 / (1 / recall).sum(), head)
    centroids = torch.stack([features[labels == k].mean(0) for k in range(4)])
    for i in range(4):
        for j in range(4):
            mixed = 0.8 * centroids[i] + 0.2 * centroids[j]
            step = F.one_hot(torch.tensor(i), 4) - torch.softmax(weight @ mixed + bias, 0)
            expected = (step @ (gradient[0] @ mixed + gradient[1])).detach()
            assert float(found["gain"][i, j]) == pytest.approx(float(expected), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("given", "best"), [(0.0, 8), (0.1, 4)])
def test_weights_at_a_rate_that_has_not_fallen_are_not_the_best(given, best, tmp_path):
    run = tiny.trainer(tmp_path, freeze_backbone=True, objective="mean_recall", learning_rate=given)
    run.begin_selection()
    run.state.max_steps = 8
    for step, score in ((0, 0.1), (4, 0.9), (8, 0.5)):
        run.state.global_step = step
        run._determine_best_metric({"eval_selection_score": score}, None)
    assert run.state.best_global_step == best
