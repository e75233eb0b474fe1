"""The checkpoint that a run goes on from, looked for before anything else happens."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import sort_checkpoints
from transformers.utils import logging

from selmix_hf.training import manifest
from selmix_hf.training.same_options import FILE_NAME as OPTIONS

logger = logging.get_logger(__name__)

_RANDOM = "rng_state*.pth"  # one of every process
_NEEDED = (OPTIMIZER_NAME, SCHEDULER_NAME, _RANDOM)  # Trainer goes on without them, and ends at other weights

# files that a model is loaded from
OF_MODEL = ("config.json", "adapter_config.json", "*.safetensors", "*.safetensors.index.json", "*.bin")


def require_checkpoint(
    asked: Any, output_dir: str | None, say: Callable[[str], object] = logger.warning, inexact: bool = False
) -> str | None:
    """The folder to resume from.

    Args:
        asked: what `Trainer.train` takes as `resume_from_checkpoint`: a folder; True for the latest one in output_dir
            that is whole, later ones are said, and where none was written to its end the run begins anew; or None or
            False for none.
        output_dir: of the run.
        say: takes the sentences.
        inexact: whether a checkpoint may lack what `missing_state` names.

    Raises:
        FileNotFoundError: no such folder, or one without the state of a run, its optimizer, its schedule or its random
            state.
        ValueError: the folder is not whole, see `manifest.fault_of`.
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
    if asked is not True:
        folder = Path(str(asked))
        if not folder.is_dir():
            raise FileNotFoundError(
                f"resume_from_checkpoint: there is no folder {str(folder)!r} (looked in {Path.cwd()}). {there}"
            )
        _require_usable(folder, there, inexact)
        return str(folder)
    unfinished = [path for path in found if _is_unfinished(Path(path))]
    faults = []
    for folder in map(Path, reversed([path for path in found if path not in unfinished])):
        try:
            _require_usable(folder, there, inexact)
        except (FileNotFoundError, ValueError) as fault:
            faults.append(fault)
        else:
            for one in faults:
                say(f"{one} The run goes on from {folder.name}.")
            _say_unfinished(unfinished, f"goes on from {folder.name}", say)
            return str(folder)
    if faults:
        raise faults[0]
    _say_unfinished(unfinished, "begins anew", say)
    return None


def _is_unfinished(folder: Path) -> bool:
    """Also of a trainer that writes no manifest."""
    return manifest.is_unfinished(folder) or not (folder / TRAINER_STATE_NAME).is_file()


def _say_unfinished(folders: Sequence[str], what: str, say: Callable[[str], object]) -> None:
    if folders:
        names = ", ".join(Path(folder).name for folder in folders)
        were = "were not written to their end" if folders[1:] else "was not written to its end"
        say(f"{names} of {Path(folders[0]).parent} {were}: the run {what}.")


def missing_state(folder: str | os.PathLike[str]) -> list[str]:
    """Of the optimizer, the schedule and the random numbers, the files that a checkpoint lacks."""
    listed = [name for name in manifest.names_in(folder) if _is_state(name) and not (Path(folder) / name).is_file()]
    return listed or [name.replace("*", "") for name in _NEEDED if not any(Path(folder).glob(name))]


def _is_state(name: str) -> bool:
    return any(fnmatch(name, needed) for needed in _NEEDED)


def _require_usable(folder: Path, there: str, inexact: bool) -> None:
    begin, missing = f"resume_from_checkpoint: {str(folder)!r}", missing_state(folder)
    require_whole(folder, begin, but=missing if inexact else ())
    if not (folder / TRAINER_STATE_NAME).is_file():
        raise FileNotFoundError(
            f"{begin} has no {TRAINER_STATE_NAME}, so it is a saved model or an unfinished checkpoint, not one to "
            f"resume from. {there} To start anew from its weights, load the model from it."
        )
    if missing and not inexact:
        raise FileNotFoundError(
            f"{begin} has no {' and no '.join(missing)}, which save_only_model=True or a push to the Hub leaves out. "
            "The run would go on to other weights: train(resume_from_checkpoint=..., inexact=True) does so. To start "
            "anew from its weights, load the model from it."
        )


def require_whole(
    folder: str | os.PathLike[str], title: str, patterns: Sequence[str] = ("*",), but: Sequence[str] = ()
) -> None:
    """Refuse a checkpoint whose files are not those that were written.

    Args:
        folder: of the checkpoint; `title` is what the error calls it.
        patterns: of the names of files that matter; `but` names those that do not.

    Raises:
        ValueError: see `manifest.fault_of`.
    """

    def matters(name: str) -> bool:
        return name not in but and any(fnmatch(name, pattern) for pattern in patterns)

    fault = manifest.fault_of(folder, matters)
    # a version that writes the options closes its checkpoints with a manifest
    if fault is None and (Path(folder) / OPTIONS).is_file() and not (Path(folder) / manifest.FILE_NAME).is_file():
        fault = f"{manifest.FILE_NAME} is missing"
    if fault is not None:
        raise ValueError(f"{title} cannot be used: {fault}.")


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
