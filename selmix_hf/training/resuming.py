"""The checkpoint that a run goes on from, looked for before anything else happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.trainer_utils import sort_checkpoints

_STATE = "trainer_state.json"  # Trainer writes it last


def require_checkpoint(asked: Any, output_dir: str | None) -> str | None:
    """The folder to resume from.

    Args:
        asked: what `Trainer.train` takes as `resume_from_checkpoint`: a folder, True for the latest one in output_dir,
            or None or False for none.
        output_dir: of the run.

    Raises:
        FileNotFoundError: no such folder, or one without the state of a run.
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
    return str(folder)
