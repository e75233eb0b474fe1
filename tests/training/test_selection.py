"""The best evaluation of a run: ties, evaluations without a score, runs that keep their start."""

import math
import shutil

import pytest
import tiny
import torch
from hits import BETTER_MEAN, BETTER_REST, FEWER_AT_ZERO, START, counts_of, macro_precision
from runs import At
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from selmix_hf import SelMixConfig
from selmix_hf.config_checks import check_evaluations
from selmix_hf.training.selection import Selection

QUIET = {"report_to": "none", "use_cpu": True}


def play(run, hits_by_step):
    """Let the evaluations of a run find what is given instead of what its model predicts."""
    measure = run.evaluations.metrics
    run.evaluations.metrics = lambda _, *more: measure(counts_of(hits_by_step[run.state.global_step]), *more)
    return run


# --- in a run ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_metrics", [False, True], ids=["", "compute_metrics"])
@pytest.mark.parametrize("sets", ["one", "several"])
@pytest.mark.parametrize("name", ["min_recall", "g_mean", "h_mean"])
def test_a_run_whose_score_stays_zero_does_not_return_the_start(name, sets, own_metrics, tmp_path, caplog):
    options = {"objective": name, "max_steps": 16}
    if own_metrics:
        options["compute_metrics"] = lambda prediction: {"own": 1.0}
    if sets == "several":
        options |= {"eval_dataset": {"a": tiny.images(), "b": tiny.images()}}
        options["metric_for_best_model"] = "eval_b_selection_score"
    run = tiny.trainer(tmp_path, **options)
    play(run, {0: START, 4: BETTER_REST, 8: BETTER_MEAN, 12: FEWER_AT_ZERO, 16: START})
    run.train()
    assert run.state.best_model_checkpoint == str(tmp_path / "checkpoint-4") and run.state.best_global_step == 4
    assert run.state.best_metric == 0.0
    assert "the start was kept" not in caplog.text


def test_of_several_sets_the_named_one_decides(tmp_path):
    sets = {"a": tiny.images(), "b": tiny.images(tiny.GAIN_COUNTS, seed=1)}
    run = tiny.trainer(tmp_path, eval_dataset=sets, metric_for_best_model="eval_a_selection_score", max_steps=8)
    measure = run.evaluations.metrics
    by_set = {"eval_a": {0: START, 4: FEWER_AT_ZERO, 8: START}, "eval_b": {0: START, 4: START, 8: BETTER_REST}}
    run.evaluations.metrics = lambda _, *more: measure(
        counts_of(by_set[run.evaluations.prefix][run.state.global_step])
    )
    run.train()
    assert run.state.best_global_step == 4


def test_a_callback_that_looks_at_another_set_changes_nothing(tmp_path):
    run, other = tiny.trainer(tmp_path, max_steps=8), tiny.images((2, 2, 2, 2), seed=3)
    measure, looking = run.evaluations.metrics, []

    def metrics(_, *more):
        of_other = {0: BETTER_REST, 4: START, 8: START}
        of_own = {0: START, 4: BETTER_REST, 8: BETTER_MEAN}
        return measure(counts_of((of_other if looking else of_own)[run.state.global_step]))

    class Look(TrainerCallback):
        def on_evaluate(self, *args, **kwargs):
            if not looking:
                looking.append(True)
                run.evaluate(other)
                looking.clear()

    run.evaluations.metrics = metrics
    run.add_callback(Look())
    run.train()
    assert run.state.best_global_step == 4


def test_two_trainings_in_a_row_choose_each_for_itself(tmp_path):
    run = play(tiny.trainer(tmp_path, max_steps=4), {0: START, 4: BETTER_REST})
    for _ in range(2):
        run.train()
        assert run.state.best_global_step == 4


@pytest.mark.parametrize("name", ["loss", "min_recall"])
def test_other_metrics_choose_by_their_value_alone(name, tmp_path):
    run = tiny.trainer(tmp_path, metric_for_best_model=name, max_steps=8)
    measure = run.evaluations.metrics
    values = {0: 0.5, 4: 0.5, 8: 0.4 if name == "loss" else 0.6}
    hits = {0: START, 4: BETTER_REST, 8: START}
    run.evaluations.metrics = lambda _, *more: {
        **measure(counts_of(hits[run.state.global_step])),
        name: values[run.state.global_step],
    }
    run.train()
    assert (run.state.best_global_step, run.state.best_metric) == (8, values[8])


@pytest.mark.parametrize("old", [False, True], ids=["", "older checkpoint"])
def test_a_resumed_run_chooses_as_the_whole_one(old, tmp_path):
    """Resumed at step 8: the best so far is that of step 4, whose score 0 the one of step 12 has too."""
    played = {0: START, 4: BETTER_REST, 8: BETTER_MEAN, 12: FEWER_AT_ZERO, 16: START}
    options = {"save_strategy": "epoch", "save_total_limit": 10, "max_steps": 16}
    whole = play(tiny.trainer(tmp_path, **options), played)
    whole.train()
    file = tmp_path / "checkpoint-8" / "selmix_state.safetensors"
    state = load_file(file)
    kept = state.pop("selection").tolist()
    assert kept == pytest.approx([0.0, 4, 0.0, 0.0, 0.2, 0.2, 0.3])
    if old:
        with safe_open(file, "pt") as opened:
            save_file(state, file, metadata=opened.metadata())
        for name in ("manifest.json", "options.json"):
            (file.parent / name).unlink()
    for step in (12, 16):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    resumed = play(tiny.trainer(tmp_path, **options), played)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert resumed.state.best_global_step == whole.state.best_global_step == 4
    assert tiny.largest_difference(tiny.weights(whole), tiny.weights(resumed)) == 0


# --- without a score ---------------------------------------------------------------------------------------------


def unpredicted(step_hits):
    """Counts in which class 3 is never predicted where it has no hit, so that its precision is 0 / 0."""
    counts = counts_of(step_hits)
    if step_hits[3] == 0:
        counts[:, 0] += counts[:, 3]
        counts[:, 3] = 0
    return counts


def run_of(tmp_path, hits_by_step, **options):
    """A run for macro precision whose evaluations find what is given."""
    run = tiny.trainer(tmp_path, objective=options.pop("objective", macro_precision), max_steps=12, **options)
    measure = run.evaluations.metrics
    run.evaluations.metrics = lambda _, *more: measure(unpredicted(hits_by_step[run.state.global_step]))
    return run


def test_an_objective_that_is_not_defined_somewhere_is_named_at_the_start(tmp_path, caplog):
    tiny.trainer(tmp_path, objective=macro_precision)
    sentence = "objective 'macro_precision' is nan where a class is never predicted. Training goes on all the same"
    assert caplog.text.count(sentence) == 1 and "write the ratio as x / (y + 1e-9)" in caplog.text


def test_an_evaluation_without_a_score_is_never_the_best(tmp_path, caplog):
    run = run_of(tmp_path, {0: (9, 9, 9, 0), 4: (5, 5, 5, 5), 8: (9, 9, 9, 0), 12: (4, 4, 4, 4)})
    assert len(run.state.log_history) == 0
    run.train()
    assert [math.isnan(log["eval_psi"]) for log in run.state.log_history if "eval_psi" in log] == [True, False] * 2
    assert run.state.best_model_checkpoint == str(tmp_path / "checkpoint-4")
    sentence = (
        "macro_precision is nan at step 0 on the set that chooses the checkpoint: an evaluation like that has no "
    )
    assert caplog.text.count(sentence) == caplog.text.count("nan at step") == 1


def test_a_start_with_a_score_is_not_kept_for_want_of_others(tmp_path, caplog):
    run = run_of(tmp_path, {0: (5, 5, 5, 5), 4: (9, 9, 9, 0), 8: (9, 9, 9, 0), 12: (9, 9, 9, 0)})
    run.train()
    assert caplog.text.count("macro_precision is nan at step 4") == 1
    assert "(start 0.5, none after it has a score). Train longer, or evaluate earlier" in caplog.text


def test_where_no_evaluation_has_a_score_the_start_is_not_returned(tmp_path, caplog):
    run, said_before = run_of(tmp_path, dict.fromkeys((0, 4, 8, 12), (9, 9, 9, 0))), []
    start = tiny.weights(run)
    run.add_callback(At("on_step_begin", lambda _: said_before.append("is nan at step 0" in caplog.text)))
    run.train()
    assert all(said_before)
    assert run.state.best_model_checkpoint is None and run.state.best_global_step is None
    assert tiny.largest_difference(start, tiny.weights(run)) > 1e-4
    sentence = (
        "no evaluation of this run has a score, since macro_precision was never a number: nothing could be chosen"
    )
    assert caplog.text.count(sentence) == 1 and "the start was kept" not in caplog.text


def test_a_loss_that_is_nan_is_never_the_best(tmp_path, caplog):
    run = tiny.trainer(tmp_path, metric_for_best_model="loss", max_steps=8)
    measure, loss = run.evaluations.metrics, {0: math.nan, 4: 0.7, 8: math.nan}
    run.evaluations.metrics = lambda counts, *more: {**measure(counts, *more), "loss": loss[run.state.global_step]}
    run.train()
    assert run.state.best_global_step == 4 and "eval_loss is nan at step 0" in caplog.text


# --- runs that keep their start ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "played", "numbers", "advice"),
    [
        (
            "min_recall",
            {0: (5, 5, 5, 5), 4: (1, 9, 9, 9), 8: (3, 9, 9, 9), 12: (2, 9, 9, 9)},
            "start 0.5, the best after it 0.3 at step 8",
            "Lower learning_rate. Where gain_set_psi",
        ),
        (
            "mean_recall",
            dict.fromkeys((0, 4, 8, 12), (5, 5, 5, 5)),
            "start 0.5, the best after it 0.5 at step 4",
            "It did not move: raise learning_rate or max_steps.",
        ),
        (
            "min_recall",
            {0: BETTER_REST, 4: START, 8: FEWER_AT_ZERO, 12: START},
            "start 0, the best after it 0 at step 4",
            "Classes without a hit hold it at 0, and no evaluation had fewer of them: raise learning_rate",
        ),
    ],
    ids=["worse", "still", "zero"],
)
def test_a_run_that_keeps_its_start_says_so_and_why(objective, played, numbers, advice, tmp_path, caplog):
    run = play(tiny.trainer(tmp_path, objective=objective, max_steps=12), played)
    run.train()
    assert run.state.best_global_step == 0
    sentence = f"the start was kept: no evaluation was better by {objective} ({numbers}). {advice}"
    assert caplog.text.count(sentence) == caplog.text.count("the start was kept") == 1


def test_only_the_main_process_says_so(tmp_path, caplog):
    run = play(tiny.trainer(tmp_path, max_steps=4), {0: BETTER_REST, 4: START})
    run.is_world_process_zero = lambda: False
    run.train()
    assert "the start was kept" not in caplog.text


def test_a_violation_is_shown_as_such():
    said = []
    args = SelMixConfig(constraints={"coverage": 0.95}, **QUIET)
    objective = args.make_objective("mean_recall")
    selection = Selection(objective, args, said.append)
    scores = [objective.score(counts) for counts in (torch.tensor([[10, 0], [3, 7]]), torch.tensor([[10, 0], [5, 5]]))]
    assert [selection.improves(score, (), step) for step, score in enumerate(scores)] == [True, False]
    selection.say_if_nothing_was_gained(0, scores[0])
    # K cov = .7 and .5 against .95
    assert "(start infeasible by 0.25, the best after it infeasible by 0.45 at step 1)" in said[0]


def test_a_resumed_run_that_keeps_its_start_knows_its_numbers(tmp_path, caplog):
    played = {0: (5, 5, 5, 5), 4: (4, 9, 9, 9), 8: (3, 9, 9, 9), 12: (2, 9, 9, 9)}
    options = {"save_strategy": "epoch", "save_total_limit": 10, "max_steps": 12}
    play(tiny.trainer(tmp_path, **options), played).train()
    sentence = "(start 0.5, the best after it 0.4 at step 4)"
    assert sentence in caplog.text
    caplog.clear()
    shutil.rmtree(tmp_path / "checkpoint-12")
    play(tiny.trainer(tmp_path, **options), played).train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert sentence in caplog.text


def test_weights_that_are_not_saved_are_not_the_best(tmp_path):
    """Of the evaluations at 2, 4, 6, 8 and 9 those at 4, 8 and the end are saved."""
    steps = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 4, "max_steps": 9}
    found = {0: 3, 2: 9, 4: 4, 6: 8, 8: 6, 9: 5}
    run = play(tiny.trainer(tmp_path, **steps), {step: (hits,) * 4 for step, hits in found.items()})
    run.train()
    assert (run.state.best_global_step, run.state.best_metric) == (8, 0.6)
    assert run.state.best_model_checkpoint == str(tmp_path / "checkpoint-8")


# --- evaluations beyond the run ----------------------------------------------------------------------------------


STEPS = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 4, "save_steps": 4}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {**STEPS, "save_strategy": "best", "eval_steps": 101},
            "eval_steps must be at most max_steps=100, found 101 .* Set eval_steps to 100 or less, or eval_strat",
        ),
        (
            {"eval_strategy": "steps"},
            r"at most max_steps=100, found 500 \(that of logging_steps, where it is not set\): beyond the run",
        ),
        (
            {**STEPS, "save_steps": 104},
            "save_steps must be at most max_steps=100, found 104: .* save_strategy to 'best'",
        ),
        (
            {**STEPS, "eval_delay": 100.5},
            "eval_delay counts steps with eval_strategy='steps' and must be at most 100, .* found 100.5: nothing",
        ),
        ({**STEPS, "eval_steps": 0.5, "save_steps": 0.5, "eval_delay": 200}, "must be at most 100, .* found 200"),
        (
            {"refresh_steps": 40, "eval_delay": 2.6},
            "counts periods of refresh_steps=40 steps with eval_strategy='epoch' and must be at most 2.5, where",
        ),
        ({"refresh_steps": 40, "eval_delay": 100}, "must be at most 2.5, where the run ends; found 100: noth"),
    ],
)
def test_evaluations_beyond_the_run_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        SelMixConfig(max_steps=100, **options, **QUIET)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({**STEPS, "eval_steps": 10, "save_strategy": "best"}, [0, 10]),
        ({**STEPS, "eval_steps": 1.0, "save_steps": 1.0, "eval_delay": 9}, [0, 9, 10]),
        ({**STEPS, "eval_steps": 0.99, "save_steps": 0.99}, [0, 10]),
        ({**STEPS, "eval_steps": 0.35, "save_strategy": "best"}, [0, 4, 8, 10]),
        ({**STEPS, "eval_delay": 10, "save_strategy": "best"}, [0, 10]),
        ({"eval_delay": 2.5}, [0, 10]),
        ({"eval_delay": 2}, [0, 8, 10]),
    ],
)
def test_evaluations_up_to_the_last_step_are_made(options, steps, tmp_path):
    """Ten steps are two periods and a half."""
    run = tiny.trainer(tmp_path, max_steps=10, freeze_backbone=True, **options)
    run.train()
    assert [log["step"] for log in run.state.log_history if "eval_psi" in log] == steps


def test_evaluations_beyond_the_run_do_no_harm_where_the_last_weights_are_returned():
    options = {"eval_strategy": "steps", "eval_steps": 101, "save_strategy": "no", "load_best_model_at_end": False}
    args = SelMixConfig(max_steps=100, **options, **QUIET)
    args.load_best_model_at_end = True
    check_evaluations(args, None)
    with pytest.raises(ValueError, match="eval_steps must be at most max_steps=100, found 101"):
        check_evaluations(args, 100)
