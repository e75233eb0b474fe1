"""Fine-tune any pretrained classifier for the metric it will be judged by, on long-tailed data.

Names are imported on first use, so that `import selmix_hf` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see
    from selmix_hf.config import SelMixConfig as SelMixConfig
    from selmix_hf.data.bad_images import readable_images as readable_images
    from selmix_hf.data.coco_files import load_coco_file as load_coco_file
    from selmix_hf.data.coco_files import load_coco_files as load_coco_files
    from selmix_hf.data.collators import ImageCollator as ImageCollator
    from selmix_hf.data.collators import SelMixCollator as SelMixCollator
    from selmix_hf.data.held_out import hold_out as hold_out
    from selmix_hf.data.list_files import load_list_file as load_list_file
    from selmix_hf.data.list_files import load_list_files as load_list_files
    from selmix_hf.data.long_tail import make_long_tailed as make_long_tailed
    from selmix_hf.data.pairs import PairDataset as PairDataset
    from selmix_hf.data.pairs import PairSampler as PairSampler
    from selmix_hf.data.split import LongTailedSplit as LongTailedSplit
    from selmix_hf.data.weighted import WeightedSampler as WeightedSampler
    from selmix_hf.data.weighted import sampling_weights as sampling_weights
    from selmix_hf.hub.saved_head import SelMixHead as SelMixHead
    from selmix_hf.hub.upload import PushError as PushError
    from selmix_hf.method.confusion import ClassStatistics as ClassStatistics
    from selmix_hf.method.confusion import confusion_counts as confusion_counts
    from selmix_hf.method.draws import ClassIndex as ClassIndex
    from selmix_hf.method.gain import gain_matrix as gain_matrix
    from selmix_hf.method.gain import metric_gradient as metric_gradient
    from selmix_hf.method.gain_fidelity import GainFidelity as GainFidelity
    from selmix_hf.method.intervals import min_recall_interval as min_recall_interval
    from selmix_hf.method.intervals import min_recall_lower_bound as min_recall_lower_bound
    from selmix_hf.method.intervals import recall_intervals as recall_intervals
    from selmix_hf.method.intervals import worst_share_recall_interval as worst_share_recall_interval
    from selmix_hf.method.losses import BalancedSoftmaxLoss as BalancedSoftmaxLoss
    from selmix_hf.method.losses import LDAMLoss as LDAMLoss
    from selmix_hf.method.losses import LogitAdjustedLoss as LogitAdjustedLoss
    from selmix_hf.method.minimum import MinimumMetric as MinimumMetric
    from selmix_hf.method.objective_names import get_objective as get_objective
    from selmix_hf.method.objective_names import register_objective as register_objective
    from selmix_hf.method.objectives import Constraint as Constraint
    from selmix_hf.method.objectives import Objective as Objective
    from selmix_hf.method.objectives import SmoothMetric as SmoothMetric
    from selmix_hf.method.pair_distribution import pair_distribution as pair_distribution
    from selmix_hf.models.head_search import find_head as find_head
    from selmix_hf.models.loading import knows_classes as knows_classes
    from selmix_hf.models.loading import load_classifier as load_classifier
    from selmix_hf.models.loading import load_for_classes as load_for_classes
    from selmix_hf.reports.metrics import classification_metrics as classification_metrics
    from selmix_hf.reports.metrics import evaluate_metric as evaluate_metric
    from selmix_hf.reports.metrics import make_compute_metrics as make_compute_metrics
    from selmix_hf.reports.plots import save_plots as save_plots
    from selmix_hf.reports.tables import before_after_table as before_after_table
    from selmix_hf.training.class_bias import add_class_bias as add_class_bias
    from selmix_hf.training.cross_fit import cross_fit as cross_fit
    from selmix_hf.training.deferred_reweighting import DeferredReweighting as DeferredReweighting
    from selmix_hf.training.fidelity_callback import GainFidelityCallback as GainFidelityCallback
    from selmix_hf.training.progress_lines import ProgressLines as ProgressLines
    from selmix_hf.training.selmix import SelMixTrainer as SelMixTrainer
    from selmix_hf.training.semi_supervised.base import SemiSupervisedTrainer as SemiSupervisedTrainer
    from selmix_hf.training.semi_supervised.fixmatch import FixMatchTrainer as FixMatchTrainer
    from selmix_hf.training.semi_supervised.mean_teacher import MeanTeacherTrainer as MeanTeacherTrainer
    from selmix_hf.training.semi_supervised.mixmatch import MixMatchTrainer as MixMatchTrainer
    from selmix_hf.training.stage1 import Stage1Trainer as Stage1Trainer
    from selmix_hf.training.stopping import Stopped as Stopped

__version__ = "0.1.0"

_HOME = {
    "SelMixConfig": "config",
    "SelMixTrainer": "training.selmix",
    "SelMixCollator": "data.collators",
    "ImageCollator": "data.collators",
    "PairDataset": "data.pairs",
    "PairSampler": "data.pairs",
    "ClassIndex": "method.draws",
    "WeightedSampler": "data.weighted",
    "sampling_weights": "data.weighted",
    "ClassStatistics": "method.confusion",
    "confusion_counts": "method.confusion",
    "get_objective": "method.objective_names",
    "register_objective": "method.objective_names",
    "metric_gradient": "method.gain",
    "gain_matrix": "method.gain",
    "classification_metrics": "reports.metrics",
    "evaluate_metric": "reports.metrics",
    "recall_intervals": "method.intervals",
    "worst_share_recall_interval": "method.intervals",
    "min_recall_interval": "method.intervals",
    "min_recall_lower_bound": "method.intervals",
    "LogitAdjustedLoss": "method.losses",
    "BalancedSoftmaxLoss": "method.losses",
    "LDAMLoss": "method.losses",
    "DeferredReweighting": "training.deferred_reweighting",
    "GainFidelity": "method.gain_fidelity",
    "GainFidelityCallback": "training.fidelity_callback",
    "Stage1Trainer": "training.stage1",
    "Stopped": "training.stopping",
    "SemiSupervisedTrainer": "training.semi_supervised.base",
    "FixMatchTrainer": "training.semi_supervised.fixmatch",
    "MeanTeacherTrainer": "training.semi_supervised.mean_teacher",
    "MixMatchTrainer": "training.semi_supervised.mixmatch",
    "add_class_bias": "training.class_bias",
    "cross_fit": "training.cross_fit",
    "find_head": "models.head_search",
    "SelMixHead": "hub.saved_head",
    "PushError": "hub.upload",
    "make_long_tailed": "data.long_tail",
    "hold_out": "data.held_out",
    "readable_images": "data.bad_images",
    "LongTailedSplit": "data.split",
    "load_coco_file": "data.coco_files",
    "load_coco_files": "data.coco_files",
    "load_list_file": "data.list_files",
    "load_list_files": "data.list_files",
    "save_plots": "reports.plots",
    "Objective": "method.objectives",
    "Constraint": "method.objectives",
    "SmoothMetric": "method.objectives",
    "MinimumMetric": "method.minimum",
    "pair_distribution": "method.pair_distribution",
    "make_compute_metrics": "reports.metrics",
    "load_classifier": "models.loading",
    "load_for_classes": "models.loading",
    "knows_classes": "models.loading",
    "ProgressLines": "training.progress_lines",
    "before_after_table": "reports.tables",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
