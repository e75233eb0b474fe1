"""Reading back what a checkpoint holds."""

from __future__ import annotations

import os
from typing import Any

from transformers import PreTrainedModel

from selmix_hf.lora import has_adapter, load_adapter
from selmix_hf.pair_distribution import PairState
from selmix_hf.sampling import isolated_random_state


def load_pair_state(folder: str | os.PathLike, geometry: dict[str, Any]) -> PairState:
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
    changed = [name for name, value in geometry.items() if state.geometry.get(name, value) != value]
    if changed:
        before, now = ({name: given[name] for name in changed} for given in (state.geometry, geometry))
        raise ValueError(
            f"{folder} was made with {before}, this run has {now}: a resumed run must keep them, or its periods would "
            "begin elsewhere or mean something else. Set them as they were, or start anew from the checkpoint's "
            "weights."
        )
    return state


def load_weights(model: Any, folder: str | os.PathLike | None) -> bool:
    """Load saved weights into the model through from_pretrained, strictly. Trainer's own way silently skips weights
    that save_pretrained stores under older names (ViT, DeiT, BEiT, Swin, ...). Of a `PeftModel` adapter and head are
    loaded, see `lora.load_adapter`.

    Returns:
        False where Trainer's way has to be taken: models that are not of transformers.
    """
    if has_adapter(model):
        load_adapter(model, str(folder))
        return True
    if not isinstance(model, PreTrainedModel):
        return False
    with isolated_random_state(0):
        loaded = type(model).from_pretrained(folder, config=model.config, dtype=model.dtype)
    model.load_state_dict(loaded.state_dict(), strict=True)
    return True
