"""The card of a run, and its head alone on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from selmix_hf.data.hub_ids import hub_ids
from selmix_hf.hub.card import render
from selmix_hf.hub.card_results import reports_in
from selmix_hf.hub.saved_head import SelMixHead


def card_of_run(trainer: Any, name: str, **options: Any) -> ModelCard:
    """The card of a `SelMixTrainer`'s model.

    Args:
        trainer: before, during or after a run.
        name: of the model.
        options: see `card.render`; the default of dataset_tags are the Hub ids of the sets that were measured and
            trained on, see `hub_ids.hub_ids`.
    """
    facts: dict[str, Any] = {
        "num_unlabeled": len(trainer.unlabeled_dataset or ()),
        "mixing": None if trainer.mixer is None else trainer.mixer.name,
        "sampling": trainer.sampling,
    }
    options["remark"] = " ".join([*trainer.resumed_inexactly, *filter(None, [options.get("remark")])])
    evaluations, step = trainer.evaluations, trainer.step_of_weights()
    if "dataset_tags" not in options:
        measured = evaluations.hub_ids.get(reports_in(evaluations.shown, step)[0], [])
        ids = list(dict.fromkeys([*measured, *hub_ids(trainer.train_dataset, trainer.gain_dataset)]))
        facts |= {"dataset_tags": ids, "measured_id": measured[0] if measured else "unknown"}
    return render(
        name,
        trainer.model,
        trainer.args,
        trainer.objective.metric.name,
        trainer.class_names,
        trainer.train_counts,
        evaluations.shown,
        step,
        **(facts | options),
    )


def push_head_to_hub(
    trainer: Any,
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
    if not trainer.args.freeze_backbone:
        raise ValueError("the backbone was trained too, so the head alone is of no use: call push_to_hub().")
    if not trainer.is_world_process_zero():
        return None
    head = SelMixHead.from_model(trainer.model, trainer.head, trainer.class_names, base_model, base_revision)
    folder = Path(str(trainer.args.output_dir)) / "head"
    return head.push_to_hub(repo_id, folder, private, revision, token or trainer.args.hub_token, license)
