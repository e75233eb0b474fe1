"""Fine-tune any pretrained classifier for the metric it will be judged by, on long-tailed data.

Names are imported on first use, so that `import selmix_hf` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "SelMixConfig": "config",
    "SelMixTrainer": "trainer",
    "SelMixCollator": "collator",
    "ImageCollator": "collator",
    "PairDataset": "sampling",
    "PairSampler": "sampling",
    "ClassIndex": "sampling",
    "ClassStatistics": "confusion",
    "confusion_counts": "confusion",
    "get_objective": "objectives",
    "register_objective": "objectives",
    "metric_gradient": "gain",
    "gain_matrix": "gain",
    "pair_distribution": "pair_distribution",
    "classification_metrics": "metrics",
    "evaluate_metric": "metrics",
    "LogitAdjustedLoss": "losses",
    "BalancedSoftmaxLoss": "losses",
    "LDAMLoss": "losses",
    "DeferredReweighting": "callbacks",
    "Stage1Trainer": "stage1",
    "find_head": "heads",
    "SelMixHead": "saved_head",
    "PushError": "pushing",
    "make_long_tailed": "long_tail",
    "hold_out": "held_out",
    "LongTailedSplit": "long_tail",
    "load_list_file": "list_files",
    "load_list_files": "list_files",
    "save_plots": "plots",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
