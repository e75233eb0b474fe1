"""The part of the trainer that looks at data: passes, statistics of the gain set, evaluation by confusion counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import logging

from selmix_hf.data.collators import SelMixCollator
from selmix_hf.data.random_state import isolated_random_state
from selmix_hf.features.cache import FeatureCache
from selmix_hf.features.dataset_pass import DatasetPass
from selmix_hf.features.stored import FeatureDataset
from selmix_hf.method.confusion import ClassStatistics, confusion_matrix
from selmix_hf.method.ranking import ascending_recalls
from selmix_hf.method.soft_gain import HeadSamples, SoftConfusion
from selmix_hf.reports.metrics import classification_metrics, counts_of
from selmix_hf.training import checks
from selmix_hf.training.health import require_finite, say_if_never_feasible
from selmix_hf.training.hub_trainer import HubTrainer
from selmix_hf.training.selection import Selection

logger = logging.get_logger(__name__)


class ConfusionTrainer(HubTrainer):
    """The part of `SelMixTrainer` whose evaluation is a pass that counts (true class, predicted class)."""

    model: PreTrainedModel
    data_collator: SelMixCollator
    gain_dataset: Any
    label_column: str
    _gain_labels: np.ndarray
    _stored_features: dict[int, tuple[Any, FeatureDataset]]
    _train_features: FeatureDataset | None
    _statistics_at: dict[int, ClassStatistics]
    _gain_set_samples: tuple[int, HeadSamples] | None = None
    _padding: HeadSamples | None = None
    _given_rate: float
    selection: Selection
    _prefix = "eval"
    _recalls: dict[str, tuple[float, ...]]

    def _gain_set_statistics(self) -> ClassStatistics:
        """Of the current weights; an evaluation at the end of a period and the refresh that follows share one pass."""
        step = self._step_of_weights()
        if step not in self._statistics_at:
            dataset = self._stored_features.get(id(self.gain_dataset), (None, self.gain_dataset))[1]
            own: list[tuple[Tensor, Tensor]] = []
            keep = self._soft and not isinstance(dataset, FeatureDataset)
            with isolated_random_state(self._seed()):
                statistics = self._pass().statistics(
                    dataset,
                    self.data_collator.eval_collator,
                    on_features=(lambda *batch: own.append(batch)) if keep else None,
                )
            if keep:
                none = torch.zeros(0, self.head.num_features), torch.zeros(0, dtype=torch.long)  # fewer than processes
                features, labels = (torch.cat(parts) for parts in zip(*(own or [none]), strict=True))
                self._gain_set_samples = step, HeadSamples(features, labels)
            logits_KK = statistics.centroids @ self.head.weight.to(statistics.centroids).T
            require_finite(logits_KK, "gain", step)  # before a checkpoint is written
            best = self.state.best_global_step  # the run may end with those weights
            self._statistics_at = {at: kept for at, kept in self._statistics_at.items() if at == best}
            self._statistics_at[step] = statistics
        return self._statistics_at[step]

    def _soft_confusion(self) -> SoftConfusion:
        """Of the current weights on the gain set, whose features are those of the pass that counted, and on the
        training samples that fill it up."""
        self._gain_set_statistics()
        dataset, args = self._stored_features.get(id(self.gain_dataset), (None, None))[1], self.args
        if dataset is not None:
            rows = slice(args.process_index, None, args.world_size)
            samples = HeadSamples(dataset.views[0][rows], dataset.labels[rows], self._padding)
        else:
            assert self._gain_set_samples is not None
            step, samples = self._gain_set_samples
            assert step == self._step_of_weights()
        return SoftConfusion(self.head, samples, args.confusion_temperature)

    @property
    def _soft(self) -> bool:
        return self.args.confusion == "soft" and self.args.sampling is None

    def gain_set_features(self) -> FeatureDataset:
        """Features of `gain_dataset` under the current weights, on every process; stored ones where the backbone is
        frozen."""
        if self.args.freeze_backbone:
            return self._as_features(self.gain_dataset, self._gain_labels)
        with isolated_random_state(self._seed()):
            return FeatureDataset(self._eval_features(self.gain_dataset), self._gain_labels)

    def _pass(self) -> DatasetPass:
        return DatasetPass(
            self.model,
            self.head,
            batch_size=self.args.eval_batch_size,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            rank=self.args.process_index,
            world_size=self.args.world_size,
            prepare=self._prepare_inputs,
            autocast=self.compute_loss_context_manager,
            show_progress=self.is_world_process_zero() and not self.args.disable_tqdm,
        )

    def _as_features(self, dataset: Any, labels: np.ndarray) -> FeatureDataset:
        """Features of the whole set; during a run, when the backbone is what it is, those of a set are made once."""
        known = self._stored_features if self.is_in_train else {}
        if id(dataset) not in known:
            features = FeatureDataset(self._eval_features(dataset), labels)
            known[id(dataset)] = dataset, features  # the dataset is kept alive, so that its id stays its own
        return known[id(dataset)][1]

    def _eval_features(self, dataset: Any) -> Tensor:
        collator = SelMixCollator(self.data_collator.eval_collator)
        return self._feature_cache().features(self._pass(), dataset, collator)

    def _feature_cache(self) -> FeatureCache:
        args, precision = self.args, str(self.accelerator.mixed_precision)
        return FeatureCache(args.feature_cache_dir, args.feature_dtype, precision)

    def predicted_classes(self, dataset: Any) -> Tensor:
        """The class that the model gives each sample, shape N, on every process; labels are not looked at.

        With a frozen backbone and `feature_cache_dir`, from stored features.
        """
        if self.args.freeze_backbone and self.args.feature_cache_dir is not None:
            dataset = FeatureDataset(self._eval_features(dataset), np.zeros(len(dataset), np.int64))
        classes_N, _ = self._pass().predictions(dataset, self.data_collator.eval_collator)
        return classes_N

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        self._prefix = metric_key_prefix
        if description != "Evaluation" or self.compute_metrics is not None:  # predict, or metrics of the user's own
            return super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        dataset = dataloader.dataset
        labels = self._labels_of(dataset, f"the {metric_key_prefix} set")
        self.callback_handler.eval_dataloader = dataloader
        if self.is_in_train and dataset is self.gain_dataset:
            statistics = self._gain_set_statistics()
        else:
            if self.args.freeze_backbone and self.args.feature_cache_dir is not None:
                dataset = self._as_features(dataset, labels)
            statistics = self._pass().statistics(dataset, self.data_collator.eval_collator, self._show_progress)
        metrics = {"loss": statistics.mean_loss, **self._metrics(statistics.counts.cpu())}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(
            predictions=np.empty(0), label_ids=None, metrics=metrics, num_samples=statistics.num_samples
        )

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        # with persistent workers Trainer keeps one loader for every dataset that is given as an object
        getattr(self, "_eval_dataloaders", {}).pop("eval", None)
        return super().get_eval_dataloader(eval_dataset)

    def _begin_selection(self) -> None:
        self.selection, self._recalls = Selection(self.objective, self.args, self._say), {}

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        self._recalls = {}  # of each set, by what its score is called
        return super()._evaluate(*args, **kwargs)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As Trainer's, but ties are broken (`selection.Selection`), and with `load_best_model_at_end` weights that
        are not saved, which could not be returned, are not the best. Nor are those at a high rate, see `_settled`."""
        name, step, strategy = self.selection.metric, self.state.global_step, self.args.save_strategy
        if name not in metrics:
            return super()._determine_best_metric(metrics, trial)
        saved = strategy == "best" or self.control.should_save or step == 0 or not self.args.load_best_model_at_end
        better = (
            saved
            and (step == 0 or self._settled)
            and self.selection.improves(metrics[name], self._recalls.get(name, ()), step)
        )
        if better:
            self.state.best_metric = metrics[name]
            if strategy != "no":
                self.state.best_global_step = step
        return better

    @property
    def _settled(self) -> bool:
        """A rate that was worked out is high until it has fallen: before the last quarter of a run what the weights
        score on a gain set is in good part chance."""
        return bool(self._given_rate) or self.state.global_step >= 0.75 * self.state.max_steps

    def _say_what_was_chosen(self) -> None:
        say_if_never_feasible(self.state.log_history, self._say)
        self.selection.say_if_nothing_was_gained(self.state.best_global_step, self.state.best_metric)

    def _say(self, sentence: str) -> None:
        if self.is_world_process_zero():
            logger.warning(sentence)

    def _metrics(self, counts: Tensor) -> dict[str, Any]:
        # the first under a name: a callback may look at another set before this one's score is compared
        self._recalls.setdefault(f"{self._prefix}_selection_score", ascending_recalls(counts))
        prior = self.objective.class_prior if self.objective.constraints else "balanced"
        report = classification_metrics(
            counts,
            class_prior=prior,
            train_counts=self.train_counts,
            class_names=self.class_names,
            tail_share=self.args.tail_share,
            worst_share=self.args.worst_share,
            per_class=not self.is_in_train,
        )
        confusion_KK = confusion_matrix(counts, self.objective.class_prior)
        own = {"psi": float(self.objective.value(confusion_KK)), "selection_score": self.objective.score(counts)}
        if self.objective.constraints:
            own["violation"] = self.objective.violation(confusion_KK)
        return {**own, **report}

    def _metrics_beside(self, compute_metrics: Callable) -> Callable:
        return lambda prediction: {
            **self._metrics(counts_of(prediction, self.head.num_classes)),
            **compute_metrics(prediction),
        }

    def _seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def _show_progress(self) -> None:
        self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)

    def _labels_of(self, dataset: Any, name: str) -> np.ndarray:
        known = self.head.num_classes, self.class_names
        return checks.read_labels(dataset, name, self.label_column, *known, like=self.train_dataset)
