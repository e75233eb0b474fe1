"""The model of a trainer: given, or made anew for every run by the user's `model_init`, as Trainer has it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from transformers import TrainingArguments, enable_full_determinism, set_seed

from selmix_hf.data.classes import set_class_names
from selmix_hf.models.peft_models import base_of
from selmix_hf.models.trainable import as_trained

_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def given_or_made(
    model: Any, model_init: Callable[..., Any] | None, args: TrainingArguments, given: Mapping[str, Any]
) -> Any:
    """The model that a trainer is made with, as `trainable.as_trained` makes it.

    Args:
        model: given, or None.
        model_init: makes it, under the run's seed.
        args: of the run.
        given: more arguments of Trainer's, by name.

    Raises:
        ValueError: neither or both, or an optimizer of a model that another one will take the place of.
    """
    if (model is None) == (model_init is None):
        raise ValueError(
            "a run starts from a classifier: give model, or model_init, a function that makes one for every run"
            f"; found {'neither' if model is None else 'both'}."
        )
    if model_init is None:
        return as_trained(model)
    if any(part is not None for part in given.get("optimizers") or ()):
        raise ValueError(
            "optimizers hold the weights of one model, and model_init makes another for every run: give "
            "optimizer_cls_and_kwargs instead."
        )
    return _made(model_init, args)


def called_for(model_init: Callable[..., Any], trial: Any) -> Callable[[], Any]:
    """A `model_init` without an argument, of one that takes none or, as Trainer has it, the trial of a search.

    Raises:
        ValueError: it needs more.
    """
    known = inspect.signature(model_init).parameters.values()
    if len(known) == 1 and all(one.kind not in (one.VAR_KEYWORD, one.KEYWORD_ONLY) for one in known):
        return partial(model_init, trial)
    if needed := [one.name for one in known if one.default is one.empty and one.kind not in _VARIABLE]:
        raise ValueError(f"model_init takes nothing, or the trial of a search alone; this one needs {needed}.")
    return model_init


def _made(model_init: Callable[..., Any], args: TrainingArguments) -> Any:
    enable_full_determinism(args.seed) if args.full_determinism else set_seed(args.seed)
    return as_trained(called_for(model_init, None)())


def with_names_of(model: Any, other: Any) -> Any:
    """A new model, which gets the names of the classes that another one has by now.

    Raises:
        ValueError: it has more or fewer classes.
    """
    config, known = (getattr(base_of(one), "config", None) for one in (model, other))
    if config is not None and known is not None:
        if config.num_labels != known.num_labels:
            raise ValueError(
                f"model_init made a model of {config.num_labels} classes, and before one of {known.num_labels}: the "
                "data have not changed."
            )
        set_class_names(config, [known.id2label[k] for k in range(known.num_labels)])
    return model


@contextmanager
def new_model(trainer: Any) -> Iterator[None]:
    """Inside, a `SelMixTrainer` with a `model_init` has a new model, and a head and parts of a run for it."""
    if trainer.model_init is None:
        yield
        return
    old: nn.Module = trainer.model
    model_init, trainer.model_init = trainer.model_init, None  # or Trainer would make one more
    try:
        trainer.model = trainer.model_wrapped = with_names_of(_made(model_init, trainer.args), old)
        trainer.model.to(trainer.args.device)
        trainer.optimizer = trainer.lr_scheduler = None
        trainer.find_head()
        trainer.make_parts()
        yield
    finally:
        trainer.model_init = model_init
