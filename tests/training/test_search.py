"""Hyperparameter search: trials that know nothing of each other, the best by the score, and sentences."""

import dataclasses
import sys
from pathlib import Path

import pytest
import tiny
from transformers import TrainerCallback, TrainingArguments

from selmix_hf import SelMixTrainer, Stage1Trainer

COUNTS = (2, 2, 2, 2)
SHORT = {"max_steps": 4, "refresh_steps": 2, "objective": "mean_recall", "freeze_backbone": True}
WORKED_OUT = {"learning_rate": None, "head_start": "best", "backbone_learning_rate": None}


class Patience(TrainerCallback):
    """Has a state, as EarlyStoppingCallback has."""

    def __init__(self):
        self.seen = 0

    def on_step_end(self, *args, **kwargs):
        self.seen += 1
        assert self.seen <= 4


def trainer(args, **options):
    data = {"train_dataset": tiny.images(), "gain_dataset": tiny.images(tiny.GAIN_COUNTS, seed=1)}
    return SelMixTrainer(args=args, processing_class=tiny.processor(), **data, **{"model_init": tiny.model, **options})


TRIED = ({"learning_rate": 0.5, "target_share": 0.3}, {"learning_rate": None, "target_share": 0.9}, {"seed": 3})


@pytest.fixture
def optuna():
    found = pytest.importorskip("optuna", reason="hyperparameter_search is tested where optuna is installed")
    found.logging.set_verbosity(found.logging.WARNING)
    return found


def test_a_trial_equals_a_new_trainer_of_the_same_options(optuna, tmp_path):
    """Bit for bit, whatever was tried before; the third has nothing of the second."""
    args = tiny.config(tmp_path / "search", **SHORT, **WORKED_OUT)
    search = trainer(args, callbacks=[Patience()])
    best = search.hyperparameter_search(lambda trial: TRIED[trial.number], n_trials=3)
    found = []
    for number, options in enumerate(TRIED):
        own = tiny.config(tmp_path / "own" / str(number), **{**SHORT, **WORKED_OUT, **options})
        alone = trainer(own)
        alone.train()
        found.append(alone.evaluate()["eval_selection_score"])
        kept = [f"checkpoint-{alone.state.best_global_step}", "model.safetensors"]
        weights = [
            (path / "/".join(kept)).read_bytes() for path in (tmp_path / f"search/run-{number}", Path(own.output_dir))
        ]
        assert weights[0] == weights[1]
    assert best.objective == max(found) and best.run_id == str(found.index(max(found)))
    assert best.hyperparameters == TRIED[found.index(max(found))]
    assert search.args.learning_rate is None and search.args.output_dir == args.output_dir
    again = trainer(dataclasses.replace(args, **best.hyperparameters, output_dir=str(tmp_path / "best")))
    again.train()
    assert again.evaluate()["eval_selection_score"] == best.objective


def test_the_search_space_may_be_of_optuna_and_the_model_of_the_trial(optuna, tmp_path):
    seen = []

    def model_init(trial):
        seen.append(trial)
        return tiny.model("resnet" if trial is None else trial.params["model"])

    def space(trial):
        trial.suggest_categorical("model", ["resnet", "convnext"])
        return {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1.0, log=True)}

    def search(folder):
        run = trainer(tiny.config(tmp_path / folder, **SHORT, **tiny.BARE), model_init=model_init)
        named = {"hp_name": lambda trial: f"try{trial.number}", "direction": "minimize"}
        return run.hyperparameter_search(space, lambda metrics: metrics["eval_loss"], 2, **named)

    best = search("a")
    assert best == search("b")  # the sampler has the seed of the run
    assert best.hyperparameters.keys() == {"learning_rate"} and seen[0] is None and seen[-1] is not None
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"try0", "try1"}


def test_several_objectives(optuna, tmp_path):
    run = trainer(tiny.config(tmp_path, **SHORT, **tiny.BARE))
    of = ("eval_mean_recall", "eval_min_recall")
    options = {"compute_objective": lambda found: [found[name] for name in of], "direction": ["maximize"] * 2}
    found = run.hyperparameter_search(lambda trial: {"seed": trial.number}, n_trials=2, **options)
    assert found and all(len(one.objective) == 2 and one.hyperparameters.keys() == {"seed"} for one in found)


def test_a_pruner_that_is_given_prunes(optuna, tmp_path):
    """One that gives up every trial at the first evaluation after the start, of step 2."""
    reported = []

    class Impatient(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            reported.append(trial.intermediate_values)
            return True

    run = trainer(tiny.config(tmp_path, **SHORT))
    with pytest.raises(ValueError, match="No trials are completed"):
        run.hyperparameter_search(lambda trial: {"seed": trial.number}, n_trials=2, pruner=Impatient())
    assert [[*values] for values in reported] == [[2], [2]]


def test_stage_1_searches_too(optuna, tmp_path):
    options = {"eval_strategy": "epoch", "metric_for_best_model": "mean_recall", "save_strategy": "no"}
    args = TrainingArguments(str(tmp_path), max_steps=2, use_cpu=True, report_to="none", disable_tqdm=True, **options)
    data = {"train_dataset": tiny.images((3, 3, 3, 3)), "eval_dataset": tiny.images((3, 3, 3, 3), seed=1)}
    data |= {"train_transform": tiny.to_tensor, "eval_transform": tiny.to_tensor}
    run = Stage1Trainer(None, args, model_init=lambda: tiny.model("convnext"), **data)
    best = run.hyperparameter_search(lambda trial: {"learning_rate": (1e-9, 0.1)[trial.number]}, n_trials=2)
    alone = Stage1Trainer(tiny.model("convnext"), args, **data)
    assert best.objective >= alone.evaluate()["eval_mean_recall"] and best.run_id in ("0", "1")


def test_an_option_that_does_not_exist_is_named(optuna, tmp_path):
    run = trainer(tiny.config(tmp_path, **SHORT))
    with pytest.raises(TypeError, match="SelMixConfig has no option 'learning_rat', did you mean 'learning_rate'"):
        run.hyperparameter_search(lambda trial: {"learning_rat": 1.0}, n_trials=1)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        (
            {"hp_space": None},
            ValueError,
            r"needs hp_space, a function from a trial to options, such as lambda trial: \{",
        ),
        ({"backend": "ray"}, ValueError, "knows backend='optuna' alone, found 'ray'"),
        ({"n_jobs": 2}, ValueError, "runs one trial at a time, in one process"),
        (
            {"direction": "max"},
            ValueError,
            "direction must be 'maximize' or 'minimize', or a list of them, found 'max'",
        ),
        ({}, ImportError, r"needs optuna: pip install 'selmix-hf\[search\]'"),
    ],
)
def test_sentences(options, error, sentence, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    run = trainer(tiny.config(tmp_path, **SHORT))
    with pytest.raises(error, match=sentence):
        run.hyperparameter_search(**{"hp_space": lambda trial: {}, **options})
    given = tiny.trainer(tmp_path, **SHORT)
    with pytest.raises(
        ValueError, match=r"starts every trial from a new model: give SelMixTrainer\(model_init=...\), a"
    ):
        given.hyperparameter_search(lambda trial: {})


@pytest.mark.parametrize(
    ("options", "sets", "sentence"),
    [
        ({"metric_for_best_model": "accurcy"}, COUNTS, "'accurcy' is not measured; did you mean 'accuracy'"),
        ({}, None, "compares trials on eval_dataset, and there is none"),
        ({}, {"a": COUNTS, "b": COUNTS}, "metric_for_best_model=None names none of them: .* 'eval_a_loss', 'eval_b_l"),
    ],
)
def test_what_no_trial_could_be_compared_by(options, sets, sentence, tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **options)
    made = {name: tiny.images(one) for name, one in sets.items()} if isinstance(sets, dict) else sets
    data = {"train_dataset": tiny.images(), "eval_dataset": tiny.images(sets) if made is COUNTS else made}
    run = Stage1Trainer(args=args, model_init=tiny.model, processing_class=tiny.processor(), **data)
    with pytest.raises(ValueError, match=sentence):
        run.hyperparameter_search(lambda trial: {})


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        (None, "hp_space must return options by name, a dictionary, found None"),
        ({"output_dir": "x"}, "hp_space must leave output_dir out"),
    ],
)
def test_what_hp_space_must_give(optuna, chosen, sentence, tmp_path):
    run = trainer(tiny.config(tmp_path, **SHORT))
    with pytest.raises(ValueError, match=sentence):
        run.hyperparameter_search(lambda trial: chosen, n_trials=1)
