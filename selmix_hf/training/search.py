"""`hyperparameter_search`: every trial is a trainer of its own, so that nothing of one run reaches the next."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import BestRun
from transformers.utils import logging

from selmix_hf.training.model_init import called_for

logger = logging.get_logger(__name__)

_DIRECTIONS = ("maximize", "minimize")
_OF_THE_SEARCH = {"output_dir", "push_to_hub"}


def hyperparameter_search(
    trainer: Any,
    hp_space: Callable[[Any], dict[str, Any]] | None = None,
    compute_objective: Callable[[dict[str, Any]], Any] | None = None,
    n_trials: int = 20,
    direction: str | list[str] | None = None,
    backend: str | None = None,
    hp_name: Callable[[Any], str] | None = None,
    **kwargs: Any,
) -> Any:
    """Try options by optuna, each time in a new trainer: the arguments of this one, with a new model of `model_init`
    and the options of the trial, in a folder of its own in output_dir. Callbacks that it was made with watch every
    trial, as copies; those that were added later do not. Nothing is pushed to the Hub.

    Args:
        hp_space: maps an `optuna.Trial` to options by name, such as
            `lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1.0, log=True)}`.
        compute_objective: maps what `evaluate` says of the weights that a trial's run returns to a number, or to one
            for each direction; default the metric of `metric_for_best_model`, which is the selection score in a
            `SelMixConfig`.
        n_trials: how many.
        direction: "maximize" or "minimize", or a list of them; default the one of `greater_is_better`.
        backend: "optuna" is the only one.
        hp_name: maps a trial to the name of its folder; default "run-" and its number.
        kwargs: of `optuna.create_study` and `Study.optimize`; the default sampler has the run's seed. Trials are
            pruned where a pruner is given: evaluations before the end of a run may then say little.

    Returns:
        a `BestRun`: number, objective and options of the best trial (`dataclasses.replace(args, **options)` has them);
        of several objectives a list.

    Raises:
        ValueError: no `model_init`, no `hp_space` or one that gives no options, no `eval_dataset`, a metric that is
            not measured, another direction or backend, several processes, or several trials at a time.
        ImportError: optuna is not installed.
    """
    if trainer.model_init is None:
        raise ValueError(
            "hyperparameter_search starts every trial from a new model: give "
            f"{type(trainer).__name__}(model_init=...), a function that loads it, instead of model."
        )
    if hp_space is None:
        raise ValueError(
            "hyperparameter_search needs hp_space, a function from a trial to options, such as lambda trial: "
            "{'learning_rate': trial.suggest_float('learning_rate', 1e-3, 1.0, log=True)}."
        )
    if backend not in (None, "optuna"):
        raise ValueError(f"hyperparameter_search knows backend='optuna' alone, found {backend!r}.")
    if trainer.args.world_size > 1 or kwargs.pop("n_jobs", 1) != 1:
        raise ValueError("hyperparameter_search runs one trial at a time, in one process: start it by plain python.")
    wrong = [one for one in ([direction] if isinstance(direction, str) else direction or []) if one not in _DIRECTIONS]
    if wrong:
        raise ValueError(f"direction must be 'maximize' or 'minimize', or a list of them, found {wrong[0]!r}.")
    if trainer.eval_dataset is None:
        raise ValueError("hyperparameter_search compares trials on eval_dataset, and there is none: give one.")
    if compute_objective is None:
        trainer.check_evaluations(searched=True)
    try:
        optuna: Any = import_module("optuna")
    except ImportError as error:
        raise ImportError("hyperparameter_search needs optuna: pip install 'selmix-hf[search]'.") from error

    args = given_args(trainer)
    metric = f"eval_{(args.metric_for_best_model or 'loss').removeprefix('eval_')}"
    value_of = compute_objective or (lambda metrics: metrics[metric])
    if direction is None:
        direction = "maximize" if args.greater_is_better else "minimize"
    how = {name: kwargs.pop(name) for name in ("timeout", "gc_after_trial", "catch") if name in kwargs}
    prunes = "pruner" in kwargs
    options: dict[int, dict[str, Any]] = {}

    def run(trial: Any) -> Any:
        options[trial.number] = chosen = _options_of(hp_space(trial))
        folder = hp_name(trial) if hp_name is not None else f"run-{trial.number}"
        options_of_trial = {**chosen, "output_dir": os.path.join(str(args.output_dir), folder), "push_to_hub": False}
        own = dataclasses.replace(args, **options_of_trial)
        one = trainer_for(trainer, own, trial)
        if prunes:
            one.add_callback(_Pruning(trial, value_of))
        one.train()
        return value_of(one.evaluate())

    several = isinstance(direction, list)
    kwargs.setdefault("sampler", optuna.samplers.TPESampler(seed=args.seed))
    study = optuna.create_study(**{"directions" if several else "direction": direction}, **kwargs)
    study.optimize(run, n_trials=n_trials, **how)
    found = [
        BestRun(str(one.number), one.values if several else one.value, options.get(one.number, one.params))
        for one in (study.best_trials if several else [study.best_trial])
    ]
    return found if several else found[0]


def _options_of(chosen: Any) -> dict[str, Any]:
    """What a user's hp_space gave."""
    if not isinstance(chosen, dict):
        raise ValueError(f"hp_space must return options by name, a dictionary, found {chosen!r}.")
    if taken := _OF_THE_SEARCH & chosen.keys():
        raise ValueError(
            f"hp_space must leave {min(taken)} out: a trial has a folder of its own below that of the search, which "
            "hp_name may name, and pushes nothing."
        )
    return chosen


def given_args(trainer: Any) -> TrainingArguments:
    """The arguments that a trainer was made with."""
    positional, named = trainer.made_with
    found = [value for value in (*positional, *named.values()) if isinstance(value, TrainingArguments)]
    return found[0] if found else type(trainer.args)()


def trainer_for(trainer: Any, args: TrainingArguments, trial: Any) -> Any:
    """A new trainer, made as this one was but for the arguments, and the callbacks, which are copies."""
    positional, named = trainer.made_with
    known = {"args": args, "model_init": called_for(trainer.model_init, trial)}
    known["callbacks"] = [copy.copy(one) for one in named.get("callbacks") or []]
    rest = [args if isinstance(value, TrainingArguments) else value for value in positional]
    if any(value is args for value in rest):
        del known["args"]
    return type(trainer)(*rest, **{**named, **known})


class _Pruning(TrainerCallback):
    """Reports evaluations of a run, but that of the start, to its trial, and stops a run that the pruner gives up."""

    def __init__(self, trial: Any, value_of: Callable[[dict[str, Any]], Any]) -> None:
        self.trial, self.value_of, self.reported = trial, value_of, 0

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        if state.global_step <= self.reported:
            return
        self.reported = state.global_step
        self.trial.report(self.value_of(metrics), state.global_step)
        if self.trial.should_prune():
            raise import_module("optuna").TrialPruned
