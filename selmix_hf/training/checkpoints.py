"""Reading back what a checkpoint holds."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainingArguments
from transformers.utils import SAFE_WEIGHTS_NAME

from selmix_hf.data.random_state import isolated_random_state
from selmix_hf.models.peft_models import has_adapter, load_adapter
from selmix_hf.models.plain_files import require_safetensors
from selmix_hf.training.state import PairState


def load_pair_state(folder: str | os.PathLike[str], geometry: dict[str, Any]) -> PairState:
    """The state in a checkpoint of a run with the same periods.

    Args:
        folder: of the checkpoint.
        geometry: what fixes the periods of the run that resumes; what an older checkpoint does not have is not
            compared.

    Raises:
        FileNotFoundError: the checkpoint has no such state.
        ValueError: its periods or its objective are others.
    """
    state = PairState.load(folder)
    require_same(folder, state.geometry, geometry, "its periods would begin elsewhere or mean something else")
    return state


def require_same(folder: str | os.PathLike[str], before: Mapping[str, Any], now: Mapping[str, Any], harm: str) -> None:
    """What a resumed run must keep, as the checkpoint in a folder has it and as the run does; what an older checkpoint
    does not have is not compared.

    Raises:
        ValueError: something differs; `harm` says what it would do.
    """
    changed = [name for name, value in now.items() if before.get(name, value) != value]
    if changed:
        was, found = ({name: given[name] for name in changed} for given in (before, now))
        raise ValueError(
            f"{folder} was made with {was}, this run has {found}: a resumed run must keep them, or {harm}. Set them "
            "as they were, or start anew from the checkpoint's weights."
        )


def load_weights(model: Any, folder: str | os.PathLike[str] | None) -> bool:
    """Load saved weights into the model, strictly: those of transformers through from_pretrained, as Trainer's own way
    silently skips weights that save_pretrained stores under older names (ViT, DeiT, BEiT, Swin, ...); of a `PeftModel`
    adapter and head, see `peft_models.load_adapter`; of any other module its state dict.

    Returns:
        False where Trainer's way has to be taken: a module that was not saved as safetensors.

    Raises:
        ValueError: the weights are pickled or cannot be read, one is not there, which would be random, or one has no
            place.
    """
    require_safetensors(str(folder))
    if has_adapter(model):
        load_adapter(model, str(folder))
        return True
    own = isinstance(model, PreTrainedModel)
    if not own and not os.path.isfile(os.path.join(str(folder), SAFE_WEIGHTS_NAME)):
        return False
    try:
        state, missing, unexpected = _of_transformers(model, folder) if own else _of_module(model, folder)
    except SafetensorError as error:
        raise ValueError(f"the weights in {folder} cannot be read, a file of them is damaged: {error}") from error
    for names, what in ((missing, "lack {} tensors"), (unexpected, "have {} tensors that the model has not")):
        if names:
            raise ValueError(f"the weights in {folder} {what.format(len(names))}, the first {min(names)!r}.")
    model.load_state_dict(state, strict=True)
    return True


def _of_transformers(model: Any, folder: Any) -> tuple[dict[str, Tensor], Collection[str], Collection[str]]:
    with isolated_random_state(0):
        found: Any = type(model).from_pretrained(
            folder, config=model.config, dtype=model.dtype, output_loading_info=True, use_safetensors=True
        )
    loaded, info = found
    return loaded.state_dict(), info["missing_keys"], info["unexpected_keys"]


def _of_module(model: nn.Module, folder: Any) -> tuple[dict[str, Tensor], Collection[str], Collection[str]]:
    state, names = load_file(os.path.join(folder, SAFE_WEIGHTS_NAME)), model.state_dict().keys()
    return state, names - state.keys(), state.keys() - names


@contextmanager
def without_token(args: TrainingArguments) -> Iterator[None]:
    """Inside, the arguments can be written to a file: they have no token of the Hub."""
    token, args.hub_token = args.hub_token, None
    try:
        yield
    finally:
        args.hub_token = token
