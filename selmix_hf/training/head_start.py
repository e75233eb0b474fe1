"""What a run begins with: the head's learning rate, and the head itself, by a few heads retrained side by side.

How fast a head may learn depends on the size of its features, on how many classes share a batch, and on how far the
training features mislead. The first two are known; the third is seen in heads that are retrained on the training set
at rates a factor of four apart: the gain set tells which of them is right. The best one is also the head to begin
with, where the model's own is worse. Shape suffixes: N samples, D features, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from selmix_hf.data.random_state import isolated_random_state
from selmix_hf.features.stored import FeatureDataset
from selmix_hf.head_fitting.side_by_side import LOSSES, FittedHead, fit_side_by_side
from selmix_hf.method.confusion import confusion_counts, predicted_classes
from selmix_hf.method.objectives import Objective, recalls
from selmix_hf.method.ranking import ranking
from selmix_hf.options import WorkedOut
from selmix_hf.training.state import PairState

logger = logging.get_logger(__name__)

RATES = (0.5, 2.0, 8.0, 32.0, 128.0)  # of the retrained heads, over the mean squared norm of the features
_FACTOR, _ALL_WEIGHTS = 4.0, 0.3  # of SelMix's rate without momentum to theirs with .9; where the backbone trains too
_USUAL_PAIRS = 64  # a step
_STEPS, _BATCH, _EPOCHS = 2000, 128, 200  # the last at most
_PER_CLASS = 500  # training samples that are looked at where the backbone trains too
_AT_ONCE = 4096  # samples


@dataclass(frozen=True)
class Tried:
    """A retrained head on the gain set.

    Attributes:
        head: how it was trained, and its weights.
        labels, predicted: of the gain set, shape N.
    """

    head: FittedHead
    labels: Tensor
    predicted: Tensor

    @property
    def counts(self) -> Tensor:
        """On the gain set, K x K."""
        return confusion_counts(self.labels, self.predicted, len(self.head.weight))

    @property
    def hit(self) -> Tensor:
        """Which samples it gets right, shape N."""
        return self.predicted == self.labels

    @property
    def mean_recall(self) -> float:
        return float((self._of_class(self.labels[self.hit]) / self._of_class(self.labels)).mean())

    def behind(self, other: Tried) -> tuple[float, float]:
        """How far its mean recall is behind that of another head, and the standard error of that over the choice of
        samples, of which both see the same: those that one gets right and the other wrong make it, as in McNemar's
        test (1947, Psychometrika 12, doi 10.1007/BF02295996)."""
        share_N = 1 / self._of_class(self.labels)[self.labels] / len(self.head.weight)
        lost_N = (other.hit.double() - self.hit.double()) * share_N
        return float(lost_N.sum()), float(lost_N.square().sum().sqrt())

    def _of_class(self, labels: Tensor) -> Tensor:
        return torch.bincount(labels, minlength=len(self.head.weight)).double()


def retrained_heads(
    features: Tensor,
    labels: Tensor,
    gain_features: Tensor,
    gain_labels: Tensor,
    num_classes: int,
    fit_bias: bool = True,
    seed: int = 0,
) -> list[Tried]:
    """Heads retrained on a training set, logit-adjusted and class-balanced, at the rates of `RATES`.

    Args:
        features, labels: of the training set, N x D and N.
        gain_features, gain_labels: of the set that they are measured on; every class must be there.
        num_classes: K.
        fit_bias: whether the head has a bias.
        seed: of the draws.
    """
    norm = mean_squared_norm(features)
    rates = [rate / norm for rate in RATES]
    steps = min(_STEPS, math.ceil(_EPOCHS * len(labels) / _BATCH))
    tried = []
    for loss in LOSSES:
        options: dict[str, Any] = {"steps": steps, "batch_size": _BATCH, "fit_bias": fit_bias, "seed": seed}
        for head in fit_side_by_side(features, labels, num_classes, rates, loss, **options):
            predicted_N = torch.cat(
                [predicted_classes(_logits(head, chunk)) for chunk in gain_features.split(_AT_ONCE)]
            )
            tried.append(Tried(head, gain_labels, predicted_N))
    return tried


def best_by(objective: Objective, tried: Sequence[Tried]) -> Tried:
    """The one that scores best on the gain set."""
    return max(tried, key=lambda one: ranking(objective, one.counts))


def learning_rate_of(tried: Sequence[Tried], factor: float) -> float:
    """`factor` times the lowest rate one of whose heads is no more than one standard error behind the highest mean
    recall on the gain set: what is as good with less is preferred, as by the one-standard-error rule of Breiman et
    al. (1984, Classification and Regression Trees)."""
    best = max(tried, key=lambda one: one.mean_recall)
    lost = [(one.head.learning_rate, *one.behind(best)) for one in tried]
    return factor * min(rate for rate, behind, error in lost if behind <= error)


@dataclass(frozen=True)
class HeadStart:
    """What retrained heads say of a `SelMixTrainer`'s run.

    Attributes:
        learning_rate: of the head, for so many pairs a step as the run has.
        retrained: the head that scores best by the objective on the gain set.
    """

    learning_rate: float
    retrained: Tried

    @classmethod
    def of(cls, trainer: Any) -> HeadStart:
        """Retrain heads on the features of the training set, or of 500 samples a class of it where the backbone
        trains too; the same on every process."""
        head, args, seed = trainer.head, trainer.args, trainer.passes.seed
        train: FeatureDataset = trainer.train_features or trainer.training_features(_PER_CLASS)
        gain = trainer.gain_set.features()
        rows = len(train.views[0])  # the first view
        with isolated_random_state(seed):
            tried = retrained_heads(
                train.views[0],
                train.labels[:rows],
                gain.take(slice(None)),
                gain.labels,
                head.num_classes,
                head.bias is not None,
                seed,
            )
        pairs = trainer.draws.plan.a_step / _USUAL_PAIRS
        factor = _FACTOR * pairs * (1.0 if args.freeze_backbone else _ALL_WEIGHTS)
        return cls(learning_rate_of(tried, factor), best_by(trainer.objective, tried))

    @classmethod
    def prepare(cls, trainer: Any, given_rate: float | None, checkpoint: str | None) -> HeadStart | None:
        """Set the learning rate of a `SelMixTrainer`'s run where none was given.

        Args:
            trainer: whose training features are stored, if its backbone is frozen.
            given_rate: the head's; None or 0: it is worked out, or was by the run that a checkpoint is of.
            checkpoint: that the run goes on from, or None.

        Returns:
            the heads that the run may begin with; None where it begins with the model's own.
        """
        args = trainer.args
        if checkpoint is not None:
            args.learning_rate = given_rate or WorkedOut(PairState.load(checkpoint).learning_rate)
            return None
        may_begin = args.head_start == "best" and args.gain_set_use == "steer" and trainer.sample_weights is None
        if given_rate and not may_begin:
            return None
        start = cls.of(trainer)
        args.learning_rate = given_rate or WorkedOut(start.learning_rate)
        return start if may_begin else None

    def begin(self, trainer: Any, is_new_best: Callable[[], bool] | None) -> None:
        """Put the retrained head into the model where it scores better on the gain set than the model's own.

        Args:
            trainer: whose `pair_state.start_counts` are those of the head as it is.
            is_new_best: evaluates as the choice of the checkpoint does; where that does not agree, the model's own
                head is put back.
        """
        objective, head, retrained = trainer.objective, trainer.head, self.retrained
        own_counts = trainer.pair_state.start_counts
        if ranking(objective, retrained.counts) <= ranking(objective, own_counts):
            return
        own = head.weight, head.bias
        trainer.assign_head(retrained.head.weight, retrained.head.bias)
        if is_new_best is not None and not is_new_best():
            trainer.assign_head(*own)
            return
        own_recall = float(recalls(own_counts.double()).mean())
        logger.warning(
            f"the run begins with a head retrained on train_dataset ({retrained.head.loss}), which is better on "
            f"gain_dataset than the model's own: mean recall {retrained.mean_recall:.3f} there, {own_recall:.3f} "
            "before. Set head_start='as_is' to begin with the model's own."
        )


def mean_squared_norm(features: Tensor) -> float:
    """E|z|^2 of features, N x D, some thousand at a time: they may be memory-mapped."""
    return sum(float(chunk.double().square().sum()) for chunk in features.split(_AT_ONCE)) / len(features)


def _logits(head: FittedHead, features: Tensor) -> Tensor:
    return features.float() @ head.weight.T + head.bias
