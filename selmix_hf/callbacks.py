"""What happens at set moments of a run, and what a person sees of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from selmix_hf.features.stored import FeatureDataset
from selmix_hf.head_fitting.cost_sensitive import CostSensitiveLoss
from selmix_hf.method.gain_fidelity import (
    GainFidelity,
    centroid_mixes,
    choose_pairs,
    class_centroids,
    drawn_mixes,
    gain_fidelity,
)
from selmix_hf.method.losses import LongTailLoss, effective_number_weights
from selmix_hf.method.minimum import worst_share_title


class Refreshable(Protocol):
    """What `RefreshCallback` needs of a trainer."""

    def start_run(self) -> None: ...

    def refresh(self) -> None: ...

    def end_step(self) -> None: ...


class RefreshCallback(TrainerCallback):
    """Refresh at the beginning of every period, which is one epoch of Trainer: before the period's batches are drawn,
    so that no prefetched batch comes from an old P."""

    def __init__(self, trainer: Refreshable) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.start_run()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.refresh()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.end_step()


class GainFidelityCallback(TrainerCallback):
    """Now and then, hold the predicted gains of a `SelMixTrainer` against what a step of its head really changes.

    Logs `GainFidelity.report`. The run itself is not touched: what is drawn has a seed of its own. A look costs a step
    and a pass of the head over the gain set for each pair; with all weights in training also a pass of the model.

    Args:
        every: refreshes from one look to the next, the first included.
        num_pairs: of classes; all of them where there are no more, else half by P and half uniform.
        step_size: of the step; default the run's `learning_rate`, undecayed, so that looks can be compared and the
            last one still moves something.
        mixes: "centroid", the step that the gain predicts; or "drawn", the mean step over `num_mixes` mixes of
            training samples, as training takes it. What sets the two apart is the noise of the draw, and training
            features that are not those of the gain set; the former needs the gain set alone.
        num_mixes: of "drawn"; as many training samples of a class, at most, are looked at.

    Attributes:
        latest: the latest `GainFidelity`, which `save_plots` draws; None before the first look.
        step: when that was.

    Raises:
        ValueError: a number that is not positive, or an unknown kind of mix.
    """

    def __init__(
        self,
        every: int = 10,
        num_pairs: int = 100,
        step_size: float | None = None,
        mixes: str = "centroid",
        num_mixes: int = 64,
    ) -> None:
        numbers = {"every": every, "num_pairs": num_pairs, "step_size": step_size, "num_mixes": num_mixes}
        for name, value in numbers.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, found {value}.")
        if mixes not in ("centroid", "drawn"):
            raise ValueError(f"mixes must be 'centroid' or 'drawn', found {mixes!r}.")
        self.every, self.num_pairs, self.step_size = every, num_pairs, step_size
        self.mixes, self.num_mixes = mixes, num_mixes
        self.latest: GainFidelity | None = None
        self.step = -1
        self._training: FeatureDataset | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._training = None

    def on_refresh(self, trainer: Any) -> None:
        """Look, where it is time to; called by `SelMixTrainer` when P is made.

        Raises:
            ValueError: single samples are drawn, so that there are no gains.
        """
        if trainer.gain is None:
            raise ValueError(
                "GainFidelityCallback holds gains against what a step changes, but with sampling or sample_weights "
                "single samples are drawn and no gains are worked out: leave it out."
            )
        args, head, state = trainer.args, trainer.head, trainer.pair_state
        if state.period % self.every:
            return
        stored, device = trainer.gain_set_features(), head.weight.device
        features, labels = stored.take(slice(None)).to(device), stored.labels.to(device)
        pairs = choose_pairs(head.num_classes, self.num_pairs, state.probability, args.seed)
        if self.mixes == "centroid":
            centroids_KD = class_centroids(features, labels, head.num_classes)
            mixes = centroid_mixes(centroids_KD, pairs, (args.beta_min + 1) / 2)
        else:
            if self._training is None or not args.freeze_backbone:
                self._training = trainer.training_features(self.num_mixes)
            known = self._training.take(slice(None)), self._training.labels
            mixes = drawn_mixes(*known, pairs, self.num_mixes, args.beta_min, args.seed)
        self.latest, self.step = (
            gain_fidelity(
                features,
                labels,
                head.weight,
                head.bias,
                trainer.objective,
                trainer.gain,
                pairs,
                mixes,
                args.learning_rate if self.step_size is None else self.step_size,
                multipliers=state.multipliers,
                feature_step=head.feature_step,
                bias_step=head.bias_step,
            ),
            trainer.state.global_step,
        )
        trainer.log(self.latest.report())


class CostSensitiveCallback(TrainerCallback):
    """Lets a `cost_sensitive.CostSensitiveLoss` follow the gain set of a `SelMixTrainer`, at every refresh.

    Args:
        loss: the trainer's `compute_loss_func`.
    """

    def __init__(self, loss: CostSensitiveLoss) -> None:
        self.loss = loss

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step > 0:
            raise ValueError(
                "a CostSensitiveLoss does not resume: its multipliers are in no checkpoint. Train from the start."
            )

    def on_refresh(self, trainer: Any) -> None:
        """Called by `SelMixTrainer` when it has looked at the gain set."""
        self.loss.update(trainer.gain_counts)


class DeferredReweighting(TrainerCallback):
    """Class weights late in stage 1 (DRW), when the features have formed under the plain loss.

    Cao et al. 2019 (arXiv 1906.07413), algorithm 1: the last fifth of the run, weights by the effective number.

    Args:
        loss: the Trainer's `compute_loss_func`.
        class_counts: training samples of each class, shape K, all positive.
        begin: share of the run after which the weights count.
        beta: of `losses.effective_number_weights`.
    """

    def __init__(
        self, loss: LongTailLoss, class_counts: Sequence[int] | Tensor, begin: float = 0.8, beta: float = 0.9999
    ) -> None:
        self.loss, self.begin = loss, begin
        self.weight_K = effective_number_weights(class_counts, beta)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.loss.class_weight_K = self.weight_K if state.global_step >= self.begin * state.max_steps else None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.loss.class_weight_K = None


class ProgressLines(TrainerCallback):
    """One line an evaluation, for a person at a terminal, instead of progress bars and dictionaries.

    Args:
        every: print every so many evaluations.
        metrics: names of evaluation metrics and what they are called.
    """

    def __init__(self, every: int = 1, metrics: Mapping[str, str] | None = None) -> None:
        self.every, self.num_seen = every, 0
        self.metrics = metrics or {"mean_recall": "mean recall", "min_recall": "worst-class recall"}

    @classmethod
    def replace_logs_of(cls, trainer: Trainer, every: int = 1) -> None:
        """Take the place of what `trainer` prints by default; the mean recall of the worst share, where that is the
        objective, is among the metrics then."""
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        lines = cls(every)
        metric: Any = getattr(getattr(trainer, "objective", None), "metric", None)
        if getattr(metric, "name", "") == "worst_share_recall":
            lines.metrics = {**lines.metrics, metric.name: worst_share_title(metric.share)}
        trainer.add_callback(lines)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        known = {name: (metrics or {}).get(f"eval_{name}") for name in self.metrics}
        numbers = [f"{self.metrics[name]} {value:.3f}" for name, value in known.items() if value is not None]
        self.num_seen += bool(numbers)  # of a test set there are none
        if numbers and state.is_world_process_zero and (self.num_seen - 1) % self.every == 0:
            print(f"  step {state.global_step:>5}   validation: {', '.join(numbers)}", flush=True)
