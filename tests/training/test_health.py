"""The signs of failure, by hand and in runs that show them; healthy runs are let alone."""

import json
import math
from types import SimpleNamespace

import pytest
import tiny
import torch
from runs import BOTH, LEARN, At, spoil_at
from transformers import AutoModelForImageClassification, TrainingArguments

import selmix_hf.training.steering
from benchmarks import regenerate
from selmix_hf import FixMatchTrainer, Stage1Trainer
from selmix_hf.method.confusion import confusion_matrix
from selmix_hf.method.objective_names import get_objective
from selmix_hf.method.objectives import coverages, h_mean, mean_recall
from selmix_hf.method.pair_distribution import staleness
from selmix_hf.reports.metrics import standard_error
from selmix_hf.training import health
from selmix_hf.training.health import FiniteCheck, HealthWatch, mean_kept_gain, recall_error, require_finite, swing
from selmix_hf.training.steering import Refresh


def logs(psi, kept_gain=0.9, error=0.01, worst=0.5):
    """What refreshes log."""
    return [
        {"gain_set_psi": p, "gain_set_psi_error": error, "gain_set_worst_recall": worst, "kept_gain": kept_gain}
        for p in psi
    ]


def refreshed(log, gain=None, distribution=None):
    return Refresh(0, 0, torch.eye(3), gain, distribution, report=log)


def heard(history, objective="mean_recall", gain=1.0, mask_dropped=False):
    said = []
    watch = HealthWatch(get_objective(objective), said.append)
    distribution = SimpleNamespace(mask_dropped=mask_dropped)
    for log in history:
        watch.look(refreshed(log, torch.full((3, 3), gain), distribution), reach=20.0)
    assert len(said) == len(watch.said)  # each once
    return watch.said, " ".join(said)


RISING = [0.5 + 0.002 * t for t in range(30)]
SWINGING = [0.5 + 0.03 * (t % 2) for t in range(30)]


def _constant(confusion):
    return confusion.sum()


def test_a_healthy_run_hears_nothing():
    assert heard(logs(RISING)) == (set(), "")
    assert heard(logs([0.5 + 0.015 * (t % 2) for t in range(30)]))[0] == set()


def test_a_swing_is_said():
    said, text = heard(logs(SWINGING))
    assert said == {"swing"} and "it went up and down on gain_dataset by 3.0 times its standard error there" in text
    assert heard(logs(SWINGING[:10]))[0] == set()  # too few to tell
    # a minimum changes its class, and more is let pass
    assert heard(logs(SWINGING), "min_recall")[0] == set()
    assert heard(logs(SWINGING, error=0.005), "min_recall")[0] == {"swing"}


def test_a_rate_that_was_worked_out_may_swing_until_it_has_fallen():
    said = []
    watch = HealthWatch(get_objective("mean_recall"), said.append)
    *before, last = logs(SWINGING)
    watch.recall([{"loss": 1.0}, *before])  # as a resumed run has them
    watch.look(refreshed(last), settled=False)
    assert not said
    watch.recall(before)
    watch.look(refreshed(last))
    assert watch.said == {"swing"}


def test_single_samples_hear_nothing_of_pairs():
    said = []
    watch = HealthWatch(get_objective("mean_recall"), said.append)
    for log in logs(SWINGING):
        watch.look(refreshed(log))
    assert watch.said == {"swing"} and said[0].endswith("its standard error there. Lower learning_rate.")
    watch.recall([])
    watch.look(refreshed(*logs([1.0], worst=1)))
    assert watch.said == {"swing", "perfect"}


def test_a_stale_distribution_is_said():
    said, text = heard(logs(RISING, kept_gain=0.05))
    assert said == {"stale"} and "the old P had 5% of the new one's gain left" in text
    assert heard(logs(RISING[:2], kept_gain=0.05))[0] == set()
    recovered = logs(RISING[:2], kept_gain=-1.0) + logs(RISING[2:], kept_gain=1.0)
    assert mean_kept_gain(recovered[:3]) == pytest.approx(-1 / 3) and mean_kept_gain(recovered) == 1


@pytest.mark.parametrize(
    ("options", "kind"),
    [({"gain": 4e-4}, "vanishing"), ({"mask_dropped": True}, "negative"), ({"gain": 6e-4}, None)],
)
def test_gains_that_do_not_help_are_said(options, kind):
    """20 times the gain against .01."""
    assert heard(logs(RISING), **options)[0] == ({kind} - {None})


def test_a_perfect_gain_set_goes_first():
    assert heard(logs(RISING, worst=1), gain=0.0)[0] == {"perfect"}


def test_swing_by_hand():
    assert swing(logs(SWINGING)) == pytest.approx(0.03 / 0.01)
    assert swing(logs(RISING)) == 0 == swing(logs(RISING[::-1]))
    assert swing(logs(SWINGING[:10])) is None is swing(logs(SWINGING, error=0.0))
    # differences +2 -1 and so on: all products are 2
    uneven = [0.0, 2, 1, 3, 2, 4, 3, 5, 4, 6, 5]
    assert swing(logs(uneven, error=1.0)) == pytest.approx(math.sqrt(2))
    # only the latest ten differences count
    assert swing(logs([*SWINGING, *(0.6 + 0.01 * t for t in range(11))])) == 0


def test_staleness_by_hand():
    old = torch.tensor([[0.5, 0.25], [0.25, 0.0]])
    new = torch.tensor([[0.0, 0.0], [0.5, 0.5]])
    gain = torch.tensor([[-1.0, 0.0], [2.0, 2.0]])
    assert staleness(None, new, gain) == {}
    assert staleness(old, new, gain) == {"stale_share": 0.75, "kept_gain": 0.0}
    assert staleness(new, new, gain) == {"stale_share": 0.0, "kept_gain": 1.0}
    assert staleness(old, new, gain * torch.tensor([10.0, 1.0]))["kept_gain"] == pytest.approx(-0.0, abs=1e-6)
    assert staleness(old, new, torch.tensor([[-90.0, 0.0], [2.0, 2.0]]))["kept_gain"] == -1
    assert staleness(old, new, -gain.abs()) == {"stale_share": 1.0}  # no gain is left to keep


def test_the_error_of_a_recall_by_hand():
    counts = torch.tensor([[6, 4, 0], [0, 8, 2], [0, 0, 10]])
    smoothed = (6.5 / 11, 8.5 / 11, 10.5 / 11)
    assert recall_error(counts) == pytest.approx(math.sqrt(sum(r * (1 - r) / 10 for r in smoothed) / 3))


@pytest.mark.parametrize("class_prior", ["validation", "balanced"])
@pytest.mark.parametrize("function", [mean_recall, h_mean, lambda matrix: coverages(matrix)[0]])
def test_the_standard_error_is_that_of_repeated_draws(function, class_prior):
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]], dtype=torch.float64)
    sizes = [400, 300, 900]
    values = []
    for _ in range(2000):
        drawn = [torch.multinomial(row, n, True, generator=generator) for row, n in zip(rows, sizes, strict=True)]
        counts = torch.stack([d.bincount(minlength=3) for d in drawn])
        values.append(float(function(confusion_matrix(counts, class_prior))))
    expected = (rows * torch.tensor(sizes)[:, None]).round().long()
    assert standard_error(function, expected, class_prior) == pytest.approx(
        torch.tensor(values).std().item(), rel=0.05
    )


@pytest.mark.parametrize(
    ("objective", "constraints", "per_class", "kinds"),
    [
        ("min_recall", None, 20, {"small"}),
        ("min_recall", None, 50, set()),
        ("min_recall", None, 200, set()),
        ("worst_share_recall", None, 20, {"small"}),  # of ten classes the tenth is one
        ("mean_recall", None, 5, set()),
        ("mean_recall", {"coverage": 0.95}, 20, {"coverage"}),
        ("mean_recall", {"coverage": 0.95}, 200, set()),
    ],
)
def test_a_gain_set_that_is_too_small_is_said_at_the_start(objective, constraints, per_class, kinds):
    """Nine classes of recall .7 and one of .4; the misses of each go to the next."""
    psi, said = get_objective(objective, constraints), []
    hits = torch.tensor([2 * per_class // 5] + [7 * per_class // 10] * 9)
    counts = torch.diag(hits) + torch.diag(per_class - hits).roll(1, 1)
    watch = HealthWatch(psi, said.append)
    watch.start(counts, range(10))
    assert watch.said == kinds and len(said) == len(kinds)
    if kinds:
        assert f"with {int(counts.sum(1).min())} samples of its smallest class" in said[0]


def said_of(objective, num_classes, per_class, **options):
    """Half of each class right."""
    said = []
    counts = torch.eye(num_classes, dtype=torch.long) * (per_class // 2)
    HealthWatch(get_objective(objective, **options), said.append).start(counts + counts.roll(1, 1), range(num_classes))
    return " ".join(said)


def test_a_small_gain_set_of_many_classes():
    """Eight samples: .18 a class; 2.5 classes know it to .11, ten to .06. H-mean would be as dead as the minimum."""
    worst = said_of("min_recall", 100, 8)
    assert "the recall of a class is known to ±0.18" in worst and "averages, such as worst_share_recall." in worst
    assert said_of("min_recall", 20, 8).endswith("such as worst_share_recall with worst_share=0.5.")
    said = said_of("worst_share_recall", 25, 8)
    assert said.startswith(
        "gain_dataset is small for worst_share_recall: with 8 samples of its smallest class, the mean"
    )
    assert (
        "mean recall of the worst tenth is known to ±0.11 (one standard error), and chance may decide which c" in said
    )
    assert said.endswith("Give more validation samples, a larger worst_share, or mean_recall as the objective.")
    assert said_of("worst_share_recall", 100, 8) == said_of("worst_share_recall", 20, 8, worst_share=0.5) == ""


# --- in a run ----------------------------------------------------------------------------------------------------


FROZEN = {"freeze_backbone": True, "objective": "mean_recall", "gain_dataset": tiny.images((60,) * 4, seed=1)}


def refreshes(run):
    return [log for log in run.state.log_history if "gain_set_psi" in log]


def test_a_run_at_a_fit_rate_is_let_alone_and_one_that_is_spoilt_is_not(tmp_path, caplog):
    options = {**FROZEN, **tiny.BARE, "refresh_steps": 2, "max_steps": 40, "target_share": 0.5, "confusion": "hard"}
    fit = tiny.trainer(tmp_path / "fit", "convnext", learning_rate=0.02, **options)
    fit.train()
    assert fit.health.said == set()
    assert all("kept_gain" in log and "stale_share" in log for log in refreshes(fit)[1:])
    assert "stale_share" not in refreshes(fit)[0]
    wild = tiny.trainer(tmp_path / "wild", "convnext", learning_rate=20.0, **options)
    wild.train()
    assert wild.health.said >= {"swing", "stale"}
    for sentence in ("the objective swings: over the last 10", "P grows stale within a period"):
        assert caplog.text.count(sentence) == 1


def test_a_resumed_run_knows_what_was_before(tmp_path):
    """Ten differences are never seen after the resume; P of the old period is that of the checkpoint."""
    options = {**FROZEN, "refresh_steps": 2, "max_steps": 28, "learning_rate": 20.0, "load_best_model_at_end": False}
    options |= {"eval_strategy": "no", "save_strategy": "steps", "save_steps": 20, "save_total_limit": 5}
    whole = tiny.trainer(tmp_path / "whole", "convnext", **options)
    whole.train()
    resumed = tiny.trainer(tmp_path / "resumed", "convnext", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-20"))
    assert len(refreshes(resumed)) == len(refreshes(whole)) == 14
    assert refreshes(resumed)[-4:] == refreshes(whole)[-4:]
    assert "swing" in whole.health.said and "swing" in resumed.health.said


def test_a_small_gain_set_is_said_once_and_not_again_after_a_resume(tmp_path, caplog):
    options = {
        "freeze_backbone": True,
        "objective": "mean_recall",
        "constraints": {"coverage": 0.95},
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 2,
    }
    options |= {"eval_strategy": "no", "load_best_model_at_end": False}
    run = tiny.trainer(tmp_path / "run", **options)
    run.train()
    assert caplog.text.count("small for the coverage constraint: with 7 samples of its smallest class") == 1
    resumed = tiny.trainer(tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert "coverage" in run.health.said and "coverage" not in resumed.health.said


def test_vanishing_gains_are_said(tmp_path, caplog):
    run = tiny.trainer(tmp_path, objective=_constant, freeze_backbone=True, **tiny.BARE)
    run.train()
    assert caplog.text.count("all gains vanish (largest") == 1


def test_a_perfect_gain_set_is_said(tmp_path, caplog):
    easy = tiny.images((2, 2, 2, 2))
    run = tiny.trainer(
        tmp_path,
        "convnext",
        train_dataset=easy,
        gain_dataset=easy,
        freeze_backbone=True,
        **{**LEARN, "max_steps": 60, "learning_rate": 0.5},
        **tiny.BARE,
    )
    run.train()
    assert run.evaluate()["eval_min_recall"] == 1
    assert caplog.text.count("every sample of gain_dataset is already classified rightly") == 1


def test_negative_gains_are_said(tmp_path, caplog, monkeypatch):
    run = tiny.trainer(tmp_path, freeze_backbone=True, confusion="hard", **tiny.BARE)
    plain = selmix_hf.training.steering.head_gain
    monkeypatch.setattr(selmix_hf.training.steering, "head_gain", lambda *args: -plain(*args).abs())
    run.train()
    assert caplog.text.count("no pair of classes has a positive gain") == 1


@pytest.mark.parametrize("strategy", ["epoch", "steps"])
def test_weights_that_are_not_finite_are_not_saved(strategy, tmp_path):
    """With an eval_dataset of its own the gain set is not looked at before the checkpoint is written."""
    options = {"save_strategy": strategy, "save_steps": 4, "eval_strategy": strategy, "eval_steps": 4, "max_steps": 12}
    options |= {"eval_dataset": tiny.images((5, 5, 5, 5), seed=3), "save_total_limit": 1}
    run = tiny.trainer(tmp_path, load_best_model_at_end=False, **options)
    spoil_at(run, 8)
    with pytest.raises(
        FloatingPointError, match=r"weights are not finite at step 8 \(classifier.*earlier checkpoints"
    ):
        run.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "checkpoint-4")
    assert all(bool(value.isfinite().all()) for value in tiny.weights(saved).values())


def test_weights_that_are_not_finite_are_not_returned(tmp_path):
    run = tiny.trainer(tmp_path, **tiny.BARE)
    spoil_at(run, 8)
    with pytest.raises(FloatingPointError, match="the weights are not finite at step 8"):
        run.train()


def test_a_run_that_was_never_feasible_is_said(tmp_path, caplog):
    options = {"constraints": {"coverage": 1.0}, "constraint_tolerance": 0.0, "max_steps": 4}
    run = tiny.trainer(tmp_path / "tight", **options)
    run.train()
    assert run.evaluate()["eval_violation"] == pytest.approx(1 - run.evaluate()["eval_smallest_coverage"])
    assert caplog.text.count("the constraints held at no evaluation of this run") == 1
    caplog.clear()
    run = tiny.trainer(tmp_path / "loose", **{**options, "constraint_tolerance": 5.0})
    run.train()
    assert "the constraints held" not in caplog.text


# --- the recorded measurements ----------------------------------------------------------------------------------


def recorded():
    return json.loads((regenerate.RECORDED / "health.json").read_text(encoding="utf-8"))


def test_what_was_measured_lies_on_the_right_side_of_the_thresholds():
    healthy = [row for row in recorded() if row["group"].startswith("healthy")]
    assert len(healthy) >= 11
    for row in healthy:
        limit = health._SWING_OF_MINIMUM if row["objective"].startswith("min_") else health._SWING
        for result in row["results"]:
            assert result["warnings"] == [] and (result["swing"] or 0) < limit
            assert result["kept_gain"] > health._KEPT_GAIN and result["reach"] > health._REACH
            assert result["recall_error"] < health._RECALL_ERROR
            assert (result["slack_error"] or 0) < health._SLACK_ERROR


@pytest.mark.parametrize(
    ("group", "objectives", "kinds"),
    [
        ("learning_rate 0.1", 3, {"swing", "stale"}),
        ("learning_rate 1", 3, {"swing", "stale"}),
        ("inverse_temperature 1e6", 3, {"swing", "stale"}),
        ("refresh_steps 500", 3, {"stale"}),
        ("head saturated (weights x 1000)", 3, {"vanishing"}),
        ("features are noise", 1, {"vanishing"}),
        ("5 a class", 2, {"small", "coverage"}),
        ("10 a class", 2, {"small", "coverage"}),
        ("20 a class", 1, {"small", "coverage"}),  # the constraint in one of two draws
    ],
)
def test_spoilt_runs_were_warned_of(group, objectives, kinds):
    rows = [row for row in recorded() if row["group"] == group]
    warned = [row for row in rows if all(kinds & set(result["warnings"]) for result in row["results"])]
    assert len(warned) == objectives


def test_a_check_can_be_asked_later():
    value = torch.ones(3)
    check = FiniteCheck(value)
    value[0] = float("nan")
    assert check and not FiniteCheck(value)
    require_finite(check, "loss", 1)
    with pytest.raises(FloatingPointError, match="the loss is not finite at step 2"):
        require_finite(FiniteCheck(value), "loss", 2)


@BOTH
def test_a_gain_that_is_not_finite_stops(freeze, tmp_path):
    run = tiny.trainer(tmp_path, freeze_backbone=freeze, save_strategy="epoch", max_steps=12)

    def spoil(state):
        if state.global_step == 8:
            next(run.head.parameters()).data.fill_(float("nan"))

    run.add_callback(At("on_epoch_end", spoil))
    with pytest.raises(FloatingPointError, match="the weights are not finite at step 8"):
        run.train()
    assert not (tmp_path / "checkpoint-8").exists()
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "checkpoint-4")
    assert all(bool(value.isfinite().all()) for value in tiny.weights(saved).values())


def no_numbers(kind="convnext"):
    model = tiny.model(kind)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    return model


@pytest.mark.parametrize("semi_supervised", [False, True])
def test_stage_1_neither_trains_nor_predicts_what_is_no_number(semi_supervised, tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True, max_steps=1, report_to="none", disable_tqdm=True)
    data = {"train_dataset": tiny.images(), "processing_class": tiny.processor(), "compute_metrics": lambda given: {}}
    if semi_supervised:
        run = FixMatchTrainer(no_numbers(), args, unlabeled_dataset=tiny.unlabeled(), **data)
    else:
        run = Stage1Trainer(no_numbers(), args, **data)
    for held in (tiny.images((1, 1, 1, 1)), tiny.images((1, 1, 1, 1)).remove_columns("label")):
        with pytest.raises(ValueError, match="4 of 4 rows of scores have no largest one"):
            run.predict(held)
    with pytest.raises(FloatingPointError, match="the weights are not finite at step 0"):
        run.train()
