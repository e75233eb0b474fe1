"""The part of the trainer that writes cards and pushes a head alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selmix_hf.config import SelMixConfig
from selmix_hf.hub.card import SHOWN_PREFIXES, render
from selmix_hf.hub.saved_head import SelMixHead
from selmix_hf.method.objectives import Objective
from selmix_hf.models.head import ClassifierHead
from selmix_hf.training.base import PushingTrainer


class HubTrainer(PushingTrainer):
    """The part of `SelMixTrainer` that writes cards and pushes a head alone."""

    args: SelMixConfig
    objective: Objective
    head: ClassifierHead
    class_names: list[str]
    train_counts: np.ndarray
    _evaluations: Sequence[dict[str, Any]] = ()

    def push_head_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        revision: str | None = None,
        token: str | None = None,
        base_model: str | None = None,
        base_revision: str | None = None,
        license: str | None = None,
    ) -> str | None:
        """Upload the head alone, which a frozen backbone makes possible; it is kept in output_dir/head.

        Args:
            repo_id, private, revision, token: see `upload.push_folder`.
            base_model: default is what the model was loaded from; must be on the Hub.
            base_revision: to be given if the model was not loaded from "main", since transformers does not keep it.
            license: an identifier of the Hub, for the card.

        Returns:
            address of the commit; None on all processes but the first.

        Raises:
            ValueError: the backbone was trained too, or others could not load it.
            PushError: as `upload.push_folder`.
        """
        if not self.args.freeze_backbone:
            raise ValueError("the backbone was trained too, so the head alone is of no use: call push_to_hub().")
        if not self.is_world_process_zero():
            return None
        head = SelMixHead.from_model(self.model, self.head, self.class_names, base_model, base_revision)
        folder = Path(str(self.args.output_dir)) / "head"
        return head.push_to_hub(repo_id, folder, private, revision, token or self.args.hub_token, license)

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """As Trainer's; evaluations are remembered for the card, which `train` would forget."""
        if any(f"{prefix}_mean_recall" in logs for prefix in SHOWN_PREFIXES):
            self._evaluations = [*self._evaluations, {**logs, "step": self._step_of_weights()}]
        super().log(logs, *args, **kwargs)

    def forget_evaluations(self) -> None:
        """Those of the weights as they were, which changed outside a run; that of the start stays, for the card."""
        step = self._step_of_weights()
        self._evaluations = [logs for logs in self._evaluations if logs["step"] != step]

    def _step_of_weights(self) -> int:
        """After a run that ended with its best checkpoint the weights are older than the last step."""
        best = self.state.best_global_step if self.args.load_best_model_at_end and not self.is_in_train else None
        return self.state.global_step if best is None else best

    def create_model_card(  # type: ignore[override]
        self, model_name: str | None = None, dataset_args: Any = None, **kwargs: Any
    ) -> None:
        """Write README.md into output_dir: numbers of `evaluate(test, metric_key_prefix="test")`, or else those of
        validation, said to be so.

        Args:
            model_name: default is that of the repository, or of output_dir.
            dataset_args: not used.
            kwargs: see `card.render`.
        """
        if not self.is_world_process_zero():
            return
        folder = Path(str(self.args.output_dir))
        name = model_name or self._repository()
        render(
            name,
            self.model,
            self.args,
            self.objective.metric.name,
            self.class_names,
            self.train_counts,
            self._evaluations,
            self._step_of_weights(),
            **{
                "num_unlabeled": len(getattr(self, "unlabeled_dataset", None) or ()),
                "mixing": getattr(getattr(self, "_mixer", None), "name", None),
                "sampling": getattr(self, "sampling", None),
                **kwargs,
            },
        ).save(folder / "README.md")
