"""The checkpoint that a run goes on from, looked for before anything else happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_utils import sort_checkpoints

_STATE = "trainer_state.json"  # Trainer writes it last
_NEEDED = (OPTIMIZER_NAME, SCHEDULER_NAME)  # Trainer goes on without them, and ends at other weights


def require_checkpoint(asked: Any, output_dir: str | None) -> str | None:
    """The folder to resume from.

    Args:
        asked: what `Trainer.train` takes as `resume_from_checkpoint`: a folder, True for the latest one in output_dir,
            or None or False for none.
        output_dir: of the run.

    Raises:
        FileNotFoundError: no such folder, or one without the state of a run, its optimizer or its schedule.
    """
    if not asked:
        return None
    found = sort_checkpoints(str(output_dir))
    names = ", ".join(Path(path).name for path in found)
    there = f"{output_dir} holds {names}." if found else f"{output_dir} holds no checkpoints."
    if asked is True and not found:
        raise FileNotFoundError(
            f"resume_from_checkpoint=True asks for the latest checkpoint, but {there} Leave it out to start anew, or "
            "set output_dir to that of the run to resume; save_strategy says when checkpoints are written."
        )
    folder = Path(found[-1] if asked is True else str(asked))
    if not folder.is_dir():
        raise FileNotFoundError(
            f"resume_from_checkpoint: there is no folder {str(folder)!r} (looked in {Path.cwd()}). {there}"
        )
    if not (folder / _STATE).is_file():
        raise FileNotFoundError(
            f"resume_from_checkpoint: {str(folder)!r} has no {_STATE}, so it is a saved model or an unfinished "
            f"checkpoint, not one to resume from. {there} To start anew from its weights, load the model from it."
        )
    if missing := [name for name in _NEEDED if not (folder / name).is_file()]:
        raise FileNotFoundError(
            f"resume_from_checkpoint: {str(folder)!r} has no {' and no '.join(missing)}: save_only_model=True, or a "
            "push to the Hub, leaves those out, and the run would go on to other weights. To start anew from its "
            "weights, load the model from it."
        )
    return str(folder)


def sentence_on_used_folder(args: TrainingArguments) -> str | None:
    """What a run that begins anew does to the checkpoints in its output_dir; None where there are none."""
    names = [Path(path).name for path in sort_checkpoints(str(args.output_dir))]
    if not names:
        return None
    does = "leaves them there"
    if args.save_strategy != "no":
        does = "writes its own among them, over those of the same step"
        if args.save_total_limit is not None:
            does += f", and save_total_limit={args.save_total_limit} deletes the oldest of all of them"
    return (
        f"{args.output_dir} holds {', '.join(names)} of an earlier run. This one begins anew and {does}; "
        f"resume_from_checkpoint=True would go on from {names[-1]} of either. Give each run an output_dir of its own, "
        "or delete what is there."
    )
