"""Bad input gets a sentence before any expensive work: what was expected, what was found, what to do.

Shape suffixes: N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import TrainingArguments
from transformers.utils import logging

from selmix_hf.config import SelMixConfig
from selmix_hf.data.collators import SelMixCollator, probe_batch
from selmix_hf.data.examples import require_random_access
from selmix_hf.data.weighted import SAMPLE_WEIGHTS
from selmix_hf.features.stored import FEATURES
from selmix_hf.method.gain import metric_gradient
from selmix_hf.method.objective_names import known_names
from selmix_hf.method.objectives import Objective
from selmix_hf.method.ranking import where_it_has_no_score
from selmix_hf.mixing.mixer import InputMixer
from selmix_hf.models.head import ClassifierHead
from selmix_hf.models.peft_models import base_of, check_adapter
from selmix_hf.options import refuse_pair_options
from selmix_hf.training.evaluations import OF_ALL_CLASSES
from selmix_hf.training.model_init import given_or_made
from selmix_hf.training.optimizer import check_optimizer_options
from selmix_hf.training.sets import Sets

logger = logging.get_logger(__name__)

_PROCESSORS = {
    "pixel_values": ("AutoImageProcessor", "preprocessor_config.json"),
    "input_values": ("AutoFeatureExtractor", "preprocessor_config.json"),
    "input_ids": ("AutoTokenizer", "tokenizer"),
}
_CONSTANT = ("worst_share", "classes_measured")  # the same at every evaluation


def check_model_and_args(
    model: Any,
    model_init: Callable[..., Any] | None,
    args: Any,
    given: Mapping[str, Any],
    processing_class: Any = None,
) -> nn.Module:
    """Refuse what SelMixTrainer cannot start from, and warn where the saved folder would not run by itself.

    Args:
        given: more arguments of Trainer's, by name.

    Returns:
        the model, given or made.

    Raises:
        TypeError: other arguments than a SelMixConfig.
        ValueError, TypeError: as `model_init.given_or_made`, `check_model` and `optimizer.check_optimizer_options`.
    """
    if not isinstance(args, SelMixConfig):
        raise TypeError(f"args must be a SelMixConfig, found {type(args).__name__}.")
    model = given_or_made(model, model_init, args, given)
    base = check_model(model, args.freeze_backbone)
    check_optimizer_options(args, model, given)
    made_by = _PROCESSORS.get(getattr(base, "main_input_name", ""))
    in_config = getattr(getattr(base, "config", None), "pretrained_cfg", None)  # a wrapped timm model's
    if processing_class is None and made_by is not None and in_config is None:
        logger.warning(
            f"no processing_class: the saved folder will have no {made_by[1]}, and pipeline() will not load it. Give "
            f"processing_class={made_by[0]}.from_pretrained(...), also beside transforms or a data_collator."
        )
    checked: nn.Module = model
    return checked


def check_model(model: Any, freeze_backbone: bool = False) -> Any:
    """Refuse what is no classifier that can be saved with its classes.

    Returns:
        the model, without the adapter that it may have.

    Raises:
        TypeError: no model, or one of timm or of plain layers without a config.
        ValueError, TypeError: an adapter, as `peft_models.check_adapter`.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a loaded model, found {model!r}: load it by AutoModelForImageClassification."
            "from_pretrained(...) or its kin."
        )
    check_adapter(model, freeze_backbone)
    base = base_of(model)
    raw = "a raw timm model" if hasattr(base, "pretrained_cfg") else type(base).__name__
    if not hasattr(base, "config") and (hasattr(base, "pretrained_cfg") or isinstance(base, nn.Sequential)):
        raise TypeError(
            f"{raw} cannot be saved in the Hub's format: load a model by AutoModelForImageClassification."
            "from_pretrained('timm/...') or its kin, wrap one of timm in a TimmWrapperForImageClassification, or "
            "write a transformers.PreTrainedModel around it."
        )
    return base


def check_datasets(train_dataset: Any, gain_dataset: Any, eval_dataset: Any) -> None:
    """Refuse missing and streaming datasets.

    Raises:
        ValueError: no training or no validation set, or an empty one.
        TypeError: a set without random access.
    """
    if train_dataset is None:
        raise ValueError("SelMixTrainer needs train_dataset: the labelled, long-tailed set that pairs are drawn from.")
    if gain_dataset is None:
        given = " eval_dataset only monitors and selects." if eval_dataset is not None else ""
        raise ValueError(
            "SelMixTrainer needs gain_dataset, a validation set with every class: the gains are worked out on it. "
            f"Set some training data aside (make_long_tailed does); never give the test set.{given}"
        )
    for name, dataset in (("train_dataset", train_dataset), ("gain_dataset", gain_dataset)):
        require_random_access(dataset, name)
        if len(dataset) == 0:
            raise ValueError(f"{name} is empty.")


def check_objective(objective: Objective, num_classes: int) -> None:
    """Try psi and its derivative on a perfect (smoothed) confusion matrix of K classes; warn where psi itself is not a
    number on matrices that a run may meet (`selection.where_it_has_no_score`).

    Raises:
        ValueError: not one number by differentiable torch operations, or a class_prior of another length.
    """
    try:
        metric_gradient(objective, 10 * torch.eye(num_classes, dtype=torch.long))
        undefined = where_it_has_no_score(objective, num_classes)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(
            f"objective {objective.name!r} must map the {num_classes} x {num_classes} confusion matrix to one number "
            f"by differentiable torch operations; it raised {type(error).__name__}: {error}"
        ) from error
    if undefined is not None:
        logger.warning(undefined)


def check_eval_sets(
    eval_dataset: Any,
    args: TrainingArguments,
    read: Callable[[Any, str, bool], NDArray[np.int64]],
    collator: Any,
    metrics: Callable[[NDArray[np.int64]], Mapping[str, Any]] | None = None,
    searched: bool = False,
) -> None:
    """Refuse, before the run, what evaluation would stop at.

    Args:
        eval_dataset: one dataset, or several by name.
        args: of the run.
        read: reads and checks the labels of a dataset, called by a name, and whether the checkpoint is chosen there
            by the objective.
        collator: batches its examples.
        metrics: tells what an evaluation of a set with these labels (N) will measure; None where a user's own function
            adds to it.
        searched: whether a search for options takes the metric, or the loss, of what `evaluate` tells after a run.

    Raises:
        ValueError: bad labels, columns of other names than in the gain set, or a metric_for_best_model that is not
            measured or is of none of several sets.
        TypeError: a set without random access.
    """
    several = isinstance(eval_dataset, Mapping)
    if several and not eval_dataset:
        raise ValueError("eval_dataset is empty: give one set, several by name, or none for gain_dataset.")
    metric = (args.metric_for_best_model or "loss" * searched).removeprefix("eval_")
    needed = searched or (args.eval_strategy != "no" and bool(metric))
    labels = {}
    for name, dataset in eval_dataset.items() if several else [(None, eval_dataset)]:
        title = "eval_dataset" if name is None else f"eval_dataset[{name!r}]"
        require_random_access(dataset, title)
        labels[name] = read(
            dataset, title, needed and metric in [f"{name}_{of}" if several else of for of in OF_ALL_CLASSES]
        )
        probe_batch(dataset, collator, title)
    if not needed:
        return
    chosen_on = [name for name in labels if name is None or metric.startswith(f"{name}_")]
    if not chosen_on:
        choices = ", ".join(f"'eval_{name}_{metric}'" for name in eval_dataset)
        raise ValueError(
            f"eval_dataset holds several sets, and metric_for_best_model={args.metric_for_best_model!r} names none of "
            f"them: set it to one of {choices}."
        )
    if metrics is None and not args.prediction_loss_only:
        return
    known: list[str] = []
    for name in chosen_on:  # the name of one set may begin that of another
        found = {} if metrics is None or args.prediction_loss_only else metrics(labels[name])
        known = ["loss", *(of for of, value in found.items() if isinstance(value, Real) and of not in _CONSTANT)]
        own = metric if name is None else metric.removeprefix(f"{name}_")
        if own in known:
            return
    of_class = "recall/" if "/" in own else ""
    shown = [of for of in known if (of.startswith(of_class) if of_class else "/" not in of)]
    where = " with prediction_loss_only=True" if args.prediction_loss_only else ""
    raise ValueError(
        f"metric_for_best_model={args.metric_for_best_model!r} is not measured{where}; {known_names(own, shown)}"
    )


def check_unlabeled(dataset: Any, teacher: Any, true_labels: Any, args: SelMixConfig) -> None:
    """Refuse unlabelled data that cannot be drawn from, and what makes no sense without them.

    Raises:
        ValueError: an empty set, labels of another number, options that contradict each other.
        TypeError: a set without random access, or a teacher that cannot be called.
    """
    if dataset is None:
        given = [
            name for name, value in (("teacher", teacher), ("unlabeled_labels", true_labels)) if value is not None
        ]
        given += [f"pseudo_label_source={args.pseudo_label_source!r}"] if args.pseudo_label_source != "model" else []
        if given:
            raise ValueError(f"{given[0]} is for pseudo-labels: give unlabeled_dataset too, or leave it out.")
        return
    require_random_access(dataset, "unlabeled_dataset")
    if len(dataset) == 0:
        raise ValueError("unlabeled_dataset is empty: leave it out to draw both samples from train_dataset.")
    if teacher is not None and not callable(teacher):
        raise TypeError(f"teacher must be called with the model's inputs and give logits, found {teacher!r}.")
    if teacher is not None and args.pseudo_label_source != "model":
        source = args.pseudo_label_source
        raise ValueError(f"pseudo_label_source={source!r} and a teacher are two sources of pseudo-labels: give one.")
    if args.pseudo_label_source == "oracle" and true_labels is None:
        raise ValueError("pseudo_label_source='oracle' takes the true classes: give unlabeled_labels.")
    if true_labels is not None and len(true_labels) != len(dataset):
        raise ValueError(
            f"unlabeled_labels must have one class a sample of unlabeled_dataset, {len(dataset)}, found "
            f"{len(true_labels)}."
        )
    if args.reuse_samples:
        raise ValueError("reuse_samples lets a sample be first and second one, which come from two sets here.")


def check_functions(
    model: Any,
    args: SelMixConfig,
    mixing: Any,
    teacher: Any,
    own_loss: Any,
    unlabeled_dataset: Any,
    sample_weights: Any,
) -> None:
    """Refuse a mixing, a teacher or a loss that cannot serve, and what is for pairs where single samples are drawn;
    say what a gain set that trains costs.

    Raises:
        TypeError: a mixing by name.
        ValueError: the model as its own teacher, a loss beside label smoothing; else see `check_single_samples`.
    """
    check_smoothing(args, "compute_loss_func" if own_loss is not None else None)
    if args.gain_set_use != "steer":
        logger.warning_once(
            "gain_dataset trains too: numbers on gain_dataset are optimistic, report those of a test set."
        )
    sampling = args.sampling if sample_weights is None else SAMPLE_WEIGHTS
    check_single_samples(sampling, args, mixing, unlabeled_dataset)
    if mixing is not None and not callable(mixing):
        raise TypeError(f"mixing must be a function here, found {mixing!r}: names go to SelMixConfig(mixing=...).")
    if teacher is not None and teacher is model:
        raise ValueError("teacher is the model itself, which gives the pseudo-labels anyway: leave it out.")


def check_smoothing(args: Any, own_loss: str | None) -> None:
    """Refuse label smoothing beside a loss of the user's own, which is called with the labels as they are.

    Args:
        own_loss: the argument that it was given as; None without one.

    Raises:
        ValueError: there are both.
    """
    if own_loss is not None and args.label_smoothing_factor:
        raise ValueError(
            f"label_smoothing_factor={args.label_smoothing_factor} has no effect on {own_loss}, a loss of your own: "
            "smooth inside of it (a loss of this package has the attribute label_smoothing), and leave the option out."
        )


def check_mixer(
    mixer: InputMixer | None,
    args: SelMixConfig,
    sets: Sets,
    head: ClassifierHead,
    collator: SelMixCollator,
    prepare: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    """Try a mixing of inputs on two samples of the training set, or on features where those are trained on.

    Raises:
        ValueError: see `mixing.mixer.InputMixer.check`.
    """
    if mixer is not None:
        two = probe_batch(sets.train, collator.collator, "train_dataset")
        mixer.check(prepare({FEATURES: torch.zeros(2, head.num_features)} if args.freeze_backbone else two))


def check_single_samples(sampling: Any, args: SelMixConfig, mixing: Any, unlabeled_dataset: Any) -> None:
    """Refuse what is for pairs where single samples are drawn.

    Raises:
        ValueError: a mixing, unlabelled data or an option that pairs alone have.
    """
    if sampling is None:
        return
    because = SAMPLE_WEIGHTS if sampling == SAMPLE_WEIGHTS else f"sampling={sampling!r:.60}"
    refuse_pair_options(args, because)
    for name, value in (("mixing", mixing), ("unlabeled_dataset", unlabeled_dataset)):
        if value is not None:
            raise ValueError(f"{because} draws single samples, and {name} is for pairs: leave one of the two out.")


def check_batches(sets: Sets, collator: SelMixCollator) -> dict[str, Any]:
    """Model inputs of two samples of the gain set, after those of the training set and of the unlabelled one, where
    there is one, were found to be of their kind.

    Raises:
        ValueError: a batch has no labels or no inputs, or a set gives other inputs than the gain set.
    """
    of_gain = probe_batch(sets.gain, collator.eval_collator, "gain_dataset")
    trained = {"train_dataset": sets.train} | ({} if sets.unlabeled is None else {"unlabeled_dataset": sets.unlabeled})
    for name, dataset in trained.items():
        of_train = probe_batch(dataset, collator.collator, name)
        kinds = [{key: _kind(value) for key, value in batch.items()} for batch in (of_train, of_gain)]
        if kinds[0] != kinds[1]:
            raise ValueError(
                f"the inputs that {name} gives are of another kind than those of gain_dataset: {kinds[0]} there, "
                f"{kinds[1]} here. Transforms must turn an image into a tensor C x H x W; columns must be the same."
            )
    if sets.unlabeled is not None:
        probe_batch(sets.unlabeled, collator.eval_collator, "unlabeled_dataset")
    return of_gain


def _kind(value: Any) -> str:
    """Such as "3 x H x W" for images, whose sides may differ between training and evaluation."""
    shape = list(getattr(value, "shape", []))[1:]
    return " x ".join([str(shape[0]), "H", "W"]) if len(shape) == 3 else f"{len(shape)}-dimensional"
