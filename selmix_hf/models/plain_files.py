"""Checkpoints are data: code that one brings is refused, and so are pickled weights that nobody asked for by name."""

from __future__ import annotations

import os
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME
from transformers.utils.hub import has_file
from transformers.utils.peft_utils import ADAPTER_SAFE_WEIGHTS_NAME, ADAPTER_WEIGHTS_NAME

_PICKLES = (WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
_OF_ADAPTER = (ADAPTER_WEIGHTS_NAME,)
_IN_PLACE_OF = {_PICKLES: (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME), _OF_ADAPTER: (ADAPTER_SAFE_WEIGHTS_NAME,)}


class NotPlainError(ValueError):
    """A checkpoint whose code or pickles would have to be trusted."""


def require_plain(name: str | os.PathLike[str], weights_file: str | None = None, **where: Any) -> None:
    """Refuse a checkpoint that asks for code, whose weights are pickled, or whose config.json names another file.

    Args:
        name: a folder or a Hub id.
        weights_file: the pickled weights that the user trusts, by their name; default: none.
        where: revision and token, on the Hub.

    Raises:
        NotPlainError: see above; or there is no such file of pickled weights.
        OSError: there is no such checkpoint.
    """
    config, _ = PreTrainedConfig.get_config_dict(name, trust_remote_code=False, **where)
    if "auto_map" in config:
        raise NotPlainError(
            f"the config.json of {str(name)!r} asks for code that comes with the checkpoint (auto_map: "
            f"{config['auto_map']!s:.200}), which is never run here. Load the model yourself, if you trust that code, "
            "and give the trainer the model."
        )
    named = config.get("transformers_weights")  # the file that from_pretrained reads, where one is named
    if named is None:
        require_safetensors(name, weights_file, **where)
    elif not str(named).endswith((".safetensors", ".safetensors.index.json")):
        raise NotPlainError(
            f"the config.json of {str(name)!r} names {named!r} as its weights: expected a file of safetensors. Save "
            "the model anew by save_pretrained."
        )


def require_safetensors(name: str | os.PathLike[str], weights_file: str | None = None, **where: Any) -> None:
    """Refuse weights that are pickled, of a model or of an adapter.

    Args:
        name, weights_file, where: as for `require_plain`.

    Raises:
        NotPlainError: there are pickled weights alone, or not those that were asked for.
    """
    if weights_file is not None:
        if weights_file not in _PICKLES or not has_file(name, weights_file, **where):
            raise NotPlainError(
                f"weights_file must be {' or '.join(_PICKLES)} and in {str(name)!r}, found {weights_file!r}; leave it "
                "out for safetensors."
            )
        return
    for pickles, plain in _IN_PLACE_OF.items():
        if any(has_file(name, file, **where) for file in plain):
            continue
        if found := [file for file in pickles if has_file(name, file, **where)]:
            raise NotPlainError(
                f"{str(name)!r} holds its weights as {found[0]}, which is a pickle: expected {plain[0]}. Save them "
                "anew by save_pretrained, which writes that; where you trust who made it, load_classifier and "
                "load_for_classes take weights_file, recipes --weights_file."
            )
