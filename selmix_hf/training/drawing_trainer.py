"""The part of the trainer that says what a period trains on: pairs drawn from P, or single samples by their weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers.utils import logging

from selmix_hf.data.collators import probe_batch
from selmix_hf.data.labels import first_of_each
from selmix_hf.data.pairs import PairDataset, PairSampler
from selmix_hf.data.seeded import DrawnSamples
from selmix_hf.data.weighted import WeightedSampler, identity
from selmix_hf.features.stored import FEATURES, FeatureDataset, FeaturePairs, FeatureSamples
from selmix_hf.method.draws import ClassIndex
from selmix_hf.method.soft_gain import HeadSamples
from selmix_hf.mixing.mixer import InputMixer
from selmix_hf.training.head_start import HeadStart
from selmix_hf.training.pseudo_label_trainer import PseudoLabelTrainer
from selmix_hf.training.state import PairState

logger = logging.get_logger(__name__)

_FULL_CLASS, _FULL_SET = 20, 50_000  # samples that a soft confusion matrix has at least; of all classes: see there


class DrawingTrainer(PseudoLabelTrainer):
    """The part of `SelMixTrainer` that draws what is trained on, from images or from stored features."""

    sample_weights: NDArray[np.float64] | None
    sampling: list[float] | str | None
    _mixer: InputMixer | None
    _head_start: HeadStart | None = None

    def get_train_dataloader(self) -> DataLoader:
        stored = self._store_features() if self.args.freeze_backbone else None
        if self.is_in_train:
            self._work_out_start()
        dataset, sampler = self._pairs(stored) if self.sample_weights is None else self._samples(stored)
        collator: Callable = self.data_collator if stored is None else dict
        workers = self.args.dataloader_num_workers if stored is None else 0
        loader: DataLoader = DataLoader(
            dataset,
            batch_size=self._train_batch_size,
            sampler=sampler,
            collate_fn=collator,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers and workers > 0,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
            generator=torch.Generator().manual_seed(self._seed()),
        )
        return self.accelerator.prepare(loader)

    def _work_out_start(self) -> None:
        """The learning rate where none was given, and the head to begin with where it may be another."""
        args, self._head_start = self.args, None
        if self._resumes_from is not None:
            args.learning_rate = self._given_rate or PairState.load(self._resumes_from).learning_rate
            return
        may_begin = args.head_start == "best" and args.gain_set_use == "steer" and self.sample_weights is None
        if may_begin or not self._given_rate:
            start = HeadStart.of(self)
            args.learning_rate = self._given_rate or start.learning_rate
            self._head_start = start if may_begin else None

    def _pairs(self, stored: FeatureDataset | None) -> tuple[Dataset, Sampler]:
        """Pairs of images, or of their features."""
        labels, views = self._train_labels, 1
        dataset: Dataset
        if stored is None:
            dataset = PairDataset(self.train_dataset, self._second_set(), reuse=self.args.reuse_samples)
        else:
            dataset = FeaturePairs(stored, self._second_features(stored))
            labels, views = stored.labels.numpy(), self.args.feature_views
        index = ClassIndex(labels, self.head.num_classes)
        return dataset, PairSampler(
            index,
            index if self.unlabeled_dataset is None else lambda: self._second_index(views),
            get_probability=lambda: torch.as_tensor(self.pair_state.probability),
            get_period=lambda: self.pair_state.period,
            num_pairs=self._draws_a_step() * self.args.refresh_steps,
            beta_min=self.args.beta_min,
            seed=self._seed(),
            reuse_within=self._train_batch_size if self.args.reuse_samples else None,
        )

    def _samples(self, stored: FeatureDataset | None) -> tuple[Dataset, Sampler]:
        """Single images, or features, each view of an image as often as any other."""
        dataset: Any = DrawnSamples(self.train_dataset) if stored is None else FeatureSamples(stored)
        sampler = WeightedSampler(
            np.tile(np.asarray(self.sample_weights), 1 if stored is None else len(stored.views)),
            num_draws=self._draws_a_step() * self.args.refresh_steps,
            get_epoch=lambda: self.pair_state.period,
            seed=self._seed(),
            with_seeds=True,
        )
        return dataset, sampler

    def _draws_a_step(self) -> int:
        """Pairs, or single samples, of an optimizer step over all processes."""
        return self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    def _store_features(self) -> FeatureDataset:
        """Stored features of the training set; those of the gain set are made beside."""
        logger.info("freeze_backbone: computing the pooled features of train_dataset and gain_dataset once.")
        self._as_features(self.gain_dataset, self._gain_labels)
        self._train_features = FeatureDataset(self._views_of(self.train_dataset), self._train_labels)
        self._padding = self._samples_that_fill_up() if self._soft else None
        return self._train_features

    def _samples_that_fill_up(self) -> HeadSamples | None:
        """Training samples of the classes with less than 20 gain samples (of very many classes: fewer), which a soft
        confusion matrix would fit; this process's share of them."""
        args, num_classes = self.args, self.head.num_classes
        wanted = min(_FULL_CLASS, max(1, _FULL_SET // num_classes))
        missing_K = np.maximum(wanted - np.bincount(self._gain_labels, minlength=num_classes), 0)
        if not missing_K.any():
            return None
        order_N = np.random.default_rng(self._seed()).permutation(len(self._train_labels))
        rows_R = first_of_each(order_N, self._train_labels, missing_K)[args.process_index :: args.world_size]
        assert self._train_features is not None
        return HeadSamples(
            self._train_features.take(torch.from_numpy(rows_R)), torch.as_tensor(self._train_labels[rows_R])
        )

    def _mixed_inputs(self) -> dict[str, Any]:
        """Two samples of what the mixing takes."""
        if self.args.freeze_backbone:
            return {FEATURES: torch.zeros(2, self.head.num_features, device=self.args.device)}
        batch = probe_batch(self.train_dataset, self.data_collator.collator, "train_dataset")
        return dict(self._prepare_inputs(batch))

    def _geometry(self) -> dict[str, Any]:
        """What fixes where periods begin, what is drawn in them and what for."""
        names = ["refresh_steps", "pair_sampling", "beta_min", "freeze_backbone", "gain_set_use", "confusion"]
        names += ["confusion_temperature"] * (self.args.confusion == "soft")
        kept = {name: getattr(self.args, name) for name in names}
        kept["mixing"] = "feature" if self._mixer is None else self._mixer.name
        kept["sampling"] = identity(self.sampling, self.sample_weights)
        kept["reuse_samples"] = self.args.reuse_samples and self._train_batch_size  # within a batch of a process
        kept["unlabeled"] = 0 if self.unlabeled_dataset is None else len(self.unlabeled_dataset)
        if self.unlabeled_dataset is not None:
            kept |= {name: value for name, value in vars(self.args).items() if name.startswith("pseudo_label_")}
            kept |= {"ema_decay": self.args.ema_decay, "teacher": self.teacher is not None}
            kept["unlabeled_rows"] = self.unlabeled_dataset.digest
        aim: dict[str, Any] = {"objective": self.objective.name, "constraints": self.args.constraints or {}}
        aim["worst_share"] = getattr(self.objective.metric, "share", 0.0)
        return {**kept, **aim, "pairs_per_step": self._draws_a_step(), "seed": self._seed()}
