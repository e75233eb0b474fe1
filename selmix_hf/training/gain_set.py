"""The set that steers: its counts, centroids and soft confusion matrix under the current weights.

Shape suffixes: N samples, R rows, D features, K classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from selmix_hf.data.random_state import isolated_random_state
from selmix_hf.features.stored import FeatureDataset
from selmix_hf.method.confusion import ClassStatistics
from selmix_hf.method.finite import all_finite, first_not_finite
from selmix_hf.method.soft_gain import HeadSamples, SoftConfusion
from selmix_hf.training.health import blamed_on_weights, require_finite
from selmix_hf.training.passes import Passes
from selmix_hf.training.sets import Sets

_FULL_CLASS, _FULL_SET = 20, 50_000  # samples that a soft confusion matrix has at least; of all classes: see there


class GainSet:
    """`gain_dataset` as a run looks at it; in the middle of a frozen run its stored features take its place.

    Args:
        sets: of the run.
        passes: of the run.

    Attributes:
        soft: whether gains are those of the soft confusion matrix.
        padding: training samples that fill up small classes of the soft confusion matrix, see `fill_up`.
    """

    def __init__(self, sets: Sets, passes: Passes) -> None:
        self.sets, self.passes = sets, passes
        self.soft = passes.args.confusion == "soft" and sets.sampling is None
        self.padding: HeadSamples | None = None
        self.forget()

    def forget(self) -> None:
        """What is known: the weights are others."""
        self._statistics_at: dict[int, ClassStatistics] = {}
        self._samples: tuple[int, HeadSamples] | None = None  # of the latest pass, where nothing is stored

    def statistics(self, step: int, also: int | None = None) -> ClassStatistics:
        """Of the weights of a step, which must be the current ones unless they are known; so an evaluation at the end
        of a period and the refresh that follows share one pass.

        Args:
            step: of the weights.
            also: another step that is still remembered, since the run may end with its weights.

        Raises:
            FloatingPointError: weights, centroids or logits that are not finite.
        """
        if step not in self._statistics_at:
            passes, head = self.passes, self.passes.head
            dataset = passes.stored_or_raw(self.sets.gain)
            own: list[tuple[Tensor, Tensor]] = []
            keep = self.soft and not isinstance(dataset, FeatureDataset)
            with isolated_random_state(passes.seed), blamed_on_weights(passes.model, step, "gain_dataset"):
                statistics = passes.look.statistics(
                    dataset,
                    passes.collator.eval_collator,
                    on_features=(lambda *batch: own.append(batch)) if keep else None,
                )
            if keep:
                none = torch.zeros(0, head.num_features), torch.zeros(0, dtype=torch.long)  # fewer than processes
                features, labels = (torch.cat(parts) for parts in zip(*(own or [none]), strict=True))
                self._samples = step, HeadSamples(features, labels)
            logits_KK = statistics.centroids @ head.weight.to(statistics.centroids).T
            if not all_finite(logits_KK):  # before a checkpoint is written
                name = self.sets.class_names[first_not_finite(logits_KK)]
                require_finite(logits_KK, f"gain of class {name!r}", step)
            self._statistics_at = {at: kept for at, kept in self._statistics_at.items() if at == also}
            self._statistics_at[step] = statistics
        return self._statistics_at[step]

    def soft_confusion(self, step: int) -> SoftConfusion:
        """Under the weights of a step whose statistics were the last to be made: on the gain set, whose features are
        those of that pass, and on the training samples that fill it up."""
        dataset, args = self.passes.stored_or_raw(self.sets.gain), self.passes.args
        if isinstance(dataset, FeatureDataset):
            rows = slice(args.process_index, None, args.world_size)
            samples = HeadSamples(dataset.views[0][rows], dataset.labels[rows], self.padding)
        else:
            assert self._samples is not None and self._samples[0] == step
            samples = self._samples[1]
        return SoftConfusion(self.passes.head, samples, args.confusion_temperature)

    def features(self) -> FeatureDataset:
        """Features under the current weights, on every process; stored ones where the backbone is frozen."""
        if self.passes.args.freeze_backbone:
            return self.passes.stored(self.sets.gain, self.sets.gain_labels)
        with isolated_random_state(self.passes.seed):
            return FeatureDataset(self.passes.features_of(self.sets.gain), self.sets.gain_labels)

    def fill_up(self, train: FeatureDataset) -> None:
        """Take stored training samples of the classes with less than 20 gain samples (of very many classes: fewer),
        which a soft confusion matrix would fit; this process's share of them."""
        args, labels_N, num_classes = self.passes.args, self.sets.train_labels, self.sets.num_classes
        wanted = min(_FULL_CLASS, max(1, _FULL_SET // num_classes))
        missing_K = np.maximum(wanted - np.bincount(self.sets.gain_labels, minlength=num_classes), 0)
        self.padding = None
        if not missing_K.any():
            return
        rows_R = self.passes.rows_of_each(labels_N, missing_K)[args.process_index :: args.world_size]
        self.padding = HeadSamples(train.take(torch.from_numpy(rows_R)), torch.as_tensor(labels_N[rows_R]))
