"""What a step does against what its gain said, while training goes on."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from selmix_hf.features.stored import FeatureDataset
from selmix_hf.method.gain_fidelity import (
    GainFidelity,
    centroid_mixes,
    choose_pairs,
    class_centroids,
    drawn_mixes,
    gain_fidelity,
)
from selmix_hf.training.steering import Refresh


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
        refresh: Refresh = trainer.latest_refresh
        if refresh.gain is None:
            raise ValueError(
                "GainFidelityCallback holds gains against what a step changes, but with sampling or sample_weights "
                "single samples are drawn and no gains are worked out: leave it out."
            )
        args, head = trainer.args, trainer.head
        if refresh.period % self.every:
            return
        stored, device = trainer.gain_set.features(), head.weight.device
        features, labels = stored.take(slice(None)).to(device), stored.labels.to(device)
        pairs = choose_pairs(head.num_classes, self.num_pairs, refresh.probability, args.seed)
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
                refresh.gain,
                pairs,
                mixes,
                args.learning_rate if self.step_size is None else self.step_size,
                multipliers=refresh.multipliers,
                feature_step=head.feature_step,
                bias_step=head.bias_step,
            ),
            refresh.step,
        )
        trainer.log(self.latest.report())
