"""Runs of SelMix from one checkpoint on any selection of one set of samples; features are computed once.

Shape suffixes: N samples, D features, K classes.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor

from selmix_hf.config import SelMixConfig
from selmix_hf.data.labels import class_labels
from selmix_hf.method.objectives import Objective
from selmix_hf.models.fingerprint import backbone_fingerprint
from selmix_hf.studies.data import BenchmarkData
from selmix_hf.studies.record import settings_of, versions
from selmix_hf.studies.start import BenchmarkArguments, augmentation, load_start
from selmix_hf.training.progress_lines import ProgressLines
from selmix_hf.training.selmix import SelMixTrainer

ROW = "selmix_row"  # column: number of the sample in `OneStart.dataset`
NOTHING_KEPT = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
_NOT_OF_A_RUN = {"objectives", "methods", "num_settings", "folds", "seeds", "objective", "seed"}
_NOT_OF_A_RUN |= {"model_name_or_path", "dataset", "split", "feature_cache_dir", "gain_set_use"}
_NOT_OF_A_RUN |= {"dataloader_num_workers", "dataloader_persistent_workers"}
_NOT_OF_A_RUN |= {"image_column", "text_column", "max_length"}  # `OneStart.dataset` has them in it
_ON_FEATURES = {"freeze_backbone": True, "mixing": "feature", "reuse_samples": False, "neftune_noise_alpha": None}


class _RowFeatures:
    """Takes the place of a feature cache: features of any selection of rows, each computed once."""

    def __init__(self, features_ND: Tensor) -> None:
        self.features_ND = features_ND

    def features(self, look: Any, dataset: Any, collator: Any, seed: int = 0) -> Tensor:
        return self.features_ND[torch.as_tensor(np.asarray(dataset[ROW][:]))]


class OneStart:
    """One checkpoint, and all samples of a benchmark that its runs may choose from.

    Args:
        arguments: of the recipe: the start, augmentation.
        config: the run's own settings; with a frozen backbone `feature_cache_dir` keeps the features of all samples.
        data: the splits.
        checkpoint: the start; loaded here, once.
        parts: the splits that are used, where the data have them.

    Attributes:
        data: as the collator wants it: texts are tokenised.
        dataset: all samples, of whatever kind; a row is the number of one.
        rows: the rows of each split.
        labels_N: the class of each row.

    Raises:
        FileNotFoundError, ValueError: no such checkpoint, or not of these classes.
    """

    def __init__(
        self,
        arguments: BenchmarkArguments,
        config: SelMixConfig,
        data: BenchmarkData,
        checkpoint: str,
        parts: tuple[str, ...] = ("train", "validation"),
    ) -> None:
        if config.feature_views > 1:
            raise ValueError(f"feature_views must stay 1 here: features are those of the {data.samples} as they are.")
        self.arguments, self.config = arguments, config.for_classes(len(data.class_names))
        self._model, self._processor = load_start(arguments, data, checkpoint)
        self.data = data = data.prepared(self._processor)
        used = {name: data.splits[name] for name in parts if name in data.splits}
        columns = used["train"].column_names
        some = [part.select_columns(columns) for part in used.values() if len(part)]  # an empty one may lack columns
        dataset: Dataset = concatenate_datasets(some)
        self.dataset = dataset.add_column(ROW, range(len(dataset)))
        self.labels_N = class_labels(self.dataset, data.label_column)
        ends = np.cumsum([len(part) for part in used.values()])
        self.rows = dict(zip(used, np.split(np.arange(len(dataset)), ends[:-1]), strict=True))
        self._stored: _RowFeatures | None = None
        self._head: tuple[Tensor, Tensor] | None = None
        self._rate = config.learning_rate

    @property
    def num_classes(self) -> int:
        return len(self.data.class_names)

    def identity(self) -> dict[str, Any]:
        """What every run here depends on, fit for JSON: weights of the start, samples, number of processes, versions,
        options; not what sets runs apart."""
        settings = settings_of(self.config, self.arguments)
        return {
            "start": backbone_fingerprint(self._model, ()),
            "split": self.data.digest,
            "images": self.dataset._fingerprint,  # of the files: their paths, sizes and times
            "processes": self.config.world_size,
            "versions": versions(),
            "settings": {name: value for name, value in settings.items() if name not in _NOT_OF_A_RUN},
        }

    def halves(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the validation samples in two parts, half of each class."""
        rows_N = np.random.default_rng(seed).permutation(self.rows["validation"])
        rows_N = rows_N[np.argsort(self.labels_N[rows_N], kind="stable")]
        return rows_N[::2], rows_N[1::2]

    def objective(self, name: str) -> Objective:
        """With the run's constraints and the training set's head and tail."""
        return self.config.make_objective(name, self.data.train_counts)

    def learning_rate(self) -> float:
        """The run's, which is worked out once where none was given."""
        if not self._rate:
            trainer = self.trainer(
                self.configured(max_steps=1, warmup_steps=0), self.rows["train"], self.rows["validation"]
            )
            trainer.train()
            self._rate = float(trainer.args.learning_rate)
        return self._rate

    def configured(self, **options: Any) -> SelMixConfig:
        """The run's settings with others in their place; without them nothing is evaluated or saved while it
        trains."""
        kept: dict[str, Any] = {**NOTHING_KEPT, "pseudo_label_steps": None}  # the last follows refresh_steps
        kept["backbone_learning_rate"] = float(self.config.backbone_learning_rate or 0)  # whatever the head's
        if not options.get("freeze_backbone", self.config.freeze_backbone):
            kept["feature_cache_dir"] = None
        return dataclasses.replace(self.config, **kept | options)

    def trainer(self, config: SelMixConfig, train_N: np.ndarray, steering_N: np.ndarray, **own: Any) -> SelMixTrainer:
        """A trainer that starts from the checkpoint, with the rows to train on and those that steer.

        Args:
            own: further arguments of `SelMixTrainer`.
        """
        view = None if config.freeze_backbone else augmentation(self.arguments, self.data, self._processor)
        trainer = SelMixTrainer(
            model=copy.deepcopy(self._model),
            args=config,
            train_dataset=self.dataset.select(train_N),
            gain_dataset=(steering := self.dataset.select(steering_N)),
            eval_dataset=steering,
            train_transform=view,
            processing_class=self._processor,
            data_collator=self.data.data_collator(self._processor),
            label_column=self.data.label_column,
            **own,
        )
        ProgressLines.replace_logs_of(trainer)
        if config.freeze_backbone:
            if self._stored is None:
                self._stored = _RowFeatures(trainer.passes.features_of(self.dataset))
            trainer.passes.cache = self._stored
        return trainer

    @torch.no_grad()
    def logits(self, trainer: SelMixTrainer, rows_N: np.ndarray) -> Tensor:
        """What the trainer's model gives each row, without augmentation, N x K, on every process."""
        features_ND = trainer.passes.features_of(self.dataset.select(rows_N)).float()
        return trainer.head.logits(features_ND.to(trainer.args.device)).float().cpu()

    def head_and_features(self) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Weight (K x D) and bias (K, zeros without one) of the checkpoint, and the features of all rows (N x D)."""
        if self._head is None:
            trainer = self.trainer(self.configured(**_ON_FEATURES), self.rows["train"], self.rows["validation"])
            weight, bias = trainer.head.weight.float().cpu(), trainer.head.bias
            self._head = weight, weight.new_zeros(len(weight)) if bias is None else bias.float().cpu()
        assert self._stored is not None
        return self._head, self._stored.features_ND.float()
