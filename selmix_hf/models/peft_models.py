"""Models with an adapter of `peft`, such as LoRA: what is peft's own about them is known here and nowhere else.

peft is optional and never imported here before a model of its kind is met.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from selmix_hf.models.head import ClassifierHead, HeadError
from selmix_hf.models.head_search import find_head

CLASS_NAMES = "class_names.json"
_ADAPTER = "default"  # peft saves an adapter of another name in a subfolder
_WEIGHTS, _CARD = "adapter_model.safetensors", "README.md"
# of an adapter's options, those that do not change what its tensors mean, or that their names and shapes tell
_NEUTRAL = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "target_modules"}


def has_adapter(model: Any) -> bool:
    """Whether the model is a `peft.PeftModel`."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def base_of(model: Any) -> Any:
    """The model of transformers inside a `PeftModel`; any other model as it is."""
    return model.get_base_model() if has_adapter(model) else model


def base_name_of(model: Any) -> str:
    """What the base of a `PeftModel`, or any other model, was loaded from; "" where that is not known."""
    config = getattr(base_of(model), "config", None)
    of_adapter = model.peft_config[_ADAPTER].base_model_name_or_path if has_adapter(model) else None
    return str(of_adapter or getattr(config, "_name_or_path", "") or "")


def describe_adapter(model: Any) -> str | None:
    """Such as "LORA of rank 8 (alpha 16) on q_proj, v_proj"; None for a model without."""
    if not has_adapter(model):
        return None
    config = model.peft_config[_ADAPTER]
    rank, alpha, targets = (getattr(config, name, None) for name in ("r", "lora_alpha", "target_modules"))
    words = [str(getattr(config.peft_type, "value", config.peft_type))]
    words += [f"of rank {rank}"] if rank else []
    words += [f"(alpha {alpha})"] if alpha else []
    if targets and not isinstance(targets, str):
        targets = ", ".join(sorted({target.rpartition(".")[2] for target in targets}))
    words += [f"on {targets}"] if targets else []
    return " ".join(words)


def check_adapter(model: Any, freeze_backbone: bool = False) -> None:
    """Refuse a model with an adapter that could not be trained, saved and read back.

    Args:
        model: of any kind; without an adapter nothing is checked.
        freeze_backbone: of the run's options.

    Raises:
        TypeError: an adapter that is not that of a `PeftModel`.
        ValueError: several adapters or one of another name, or a frozen backbone.
    """
    peft = sys.modules.get("peft")
    mixed = peft is not None and isinstance(model, peft.PeftMixedModel)
    if mixed or getattr(model, "_hf_peft_config_loaded", False):
        found = "of several kinds" if mixed else "of its own (add_adapter, from_pretrained of an adapter)"
        raise TypeError(
            f"expected a model of get_peft_model(base, config), found a {type(model).__name__} with adapters {found}, "
            "which no checkpoint would give back. For an adapter that was saved: PeftModel.from_pretrained(base, "
            "folder, is_trainable=True)."
        )
    if not has_adapter(model):
        return
    if list(model.peft_config) != [_ADAPTER]:
        raise ValueError(
            f"expected one adapter called {_ADAPTER!r}, found {', '.join(map(repr, model.peft_config))}: peft saves "
            "others in subfolders, which are neither resumed from nor pushed. Leave adapter_name out, and call "
            "delete_adapter for those that are not trained."
        )
    if freeze_backbone:
        raise ValueError(
            "freeze_backbone=True trains the head alone on stored features, so the adapter would never train. Leave "
            "it False to train adapter and head: the base is frozen by peft. To train nothing but the head on an "
            "adapter that is done, give model.merge_and_unload()."
        )


def find_trained_head(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    head_name: str | Sequence[str] | None = None,
    freeze_backbone: bool = False,
) -> ClassifierHead:
    """`head_search.find_head`, for a head that training will move.

    Args:
        model, inputs, head_name: see there.
        freeze_backbone: the head is trained whatever requires a gradient now.

    Raises:
        HeadError: no head, or one that is frozen where other weights are trained, or one with an adapter on it.
    """
    whole: Any = model
    try:
        head = find_head(model, inputs, head_name=head_name)
        adapted = any(hasattr(module, "base_layer") for module in head.modules)  # a new adapter changes nothing yet
    except HeadError as error:
        if not has_adapter(model):
            raise
        task = whole.peft_config[_ADAPTER].task_type
        if task is not None and "input_ids" not in inputs:
            raise HeadError(
                f"the adapter has task_type={str(getattr(task, 'value', task))!r}, with which peft calls the model "
                f"by the arguments of one of texts, and this one takes {', '.join(inputs)}: leave task_type out of "
                f"the adapter's config. ({error})"
            ) from error
        with whole.disable_adapter():  # where this one is found, it is the adapter that changes the logits
            head, adapted = find_head(model, inputs, head_name=head_name), True
    weights: list[Any] = [module.weight for module in head.modules]
    trained = freeze_backbone or all(weight.requires_grad for weight in weights)
    # without an adapter, a model that is wholly frozen may be there to be evaluated
    training = has_adapter(model) or any(weight.requires_grad for weight in model.parameters())
    if adapted or (training and not trained):
        head.remove()
        raise HeadError(_frozen(model, head.names, "with an adapter on it" if adapted else "frozen"))
    return head


def _frozen(model: nn.Module, names: Sequence[str], found: str) -> str:
    own = [_name_in_base(name) for name in names]
    title = f"expected a head that is trained, found {' and '.join(map(repr, own))} {found}"
    if not has_adapter(model):
        return f"{title}: gains are those of steps of the head. Call requires_grad_(True) on it."
    if any(".modules_to_save." in name for name in names):
        return f"{title}: load the adapter by PeftModel.from_pretrained(base, folder, is_trainable=True)."
    return (
        f"{title}: gains are those of steps of the head, and peft trains nothing but the adapter and what "
        f"modules_to_save names. Make the model anew: get_peft_model(base, LoraConfig(..., modules_to_save={own}))."
    )


def _name_in_base(name: str) -> str:
    """The module path before peft put its wrappers around."""
    for part in ("base_model.model.", f".modules_to_save.{_ADAPTER}", ".original_module", ".base_layer"):
        name = name.replace(part, "")
    return name


# --- saving and loading ----------------------------------------------------------------------------------------------


@contextmanager
def adapter_saved(model: Any, folder: str | os.PathLike[str]) -> Iterator[None]:
    """Around a save of any model. The folder of an adapter gets `class_names.json` too, as it has no config.json: with
    one, transformers would take it for a whole model. A README.md stays what it was: peft writes a form to fill in."""
    if not has_adapter(model):
        yield
        return
    card = Path(folder) / _CARD
    before = card.read_bytes() if card.is_file() else None
    try:
        yield
    finally:
        if before is None:
            card.unlink(missing_ok=True)
        else:
            card.write_bytes(before)
    id2label = getattr(getattr(base_of(model), "config", None), "id2label", None)
    if id2label:
        names = [id2label[k] for k in sorted(id2label, key=int)]
        (Path(folder) / CLASS_NAMES).write_text(json.dumps(names, ensure_ascii=False) + "\n", encoding="utf-8")


def mark_card(model: Any, folder: str | os.PathLike[str]) -> None:
    """Have peft write into the card of a folder that it is that of an adapter; nothing for other models."""
    if has_adapter(model):
        model.create_or_update_model_card(str(folder))


def load_adapter(model: Any, folder: str | os.PathLike[str]) -> None:
    """Give a `PeftModel` the adapter and head that a checkpoint holds, every tensor of them and no other.

    Raises:
        FileNotFoundError: there is no adapter in the folder.
        ValueError: other options, tensors or shapes than the model's.
    """
    from peft import PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict

    path = Path(folder) / _WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {_WEIGHTS}, so it was not saved from a model with an adapter: load the model that it "
            "was saved from."
        )
    options, own_options = (
        {name: value for name, value in config.to_dict().items() if name not in _NEUTRAL}
        for config in (PeftConfig.from_pretrained(str(folder)), model.peft_config[_ADAPTER])
    )
    saved, own = load_file(path), get_peft_model_state_dict(model)
    for kind, there, here in (
        ("options", options, own_options),
        ("tensors", {name: tuple(x.shape) for name, x in saved.items()}, {n: tuple(x.shape) for n, x in own.items()}),
    ):
        differing = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
        if differing:
            first = differing[0]
            raise ValueError(
                f"the adapter in {folder} has other {kind} than that of the model: {first} is {there.get(first)} "
                f"there and {here.get(first)} here{f', and {len(differing) - 1} more' if differing[1:] else ''}. Give "
                "get_peft_model the same base and options as then."
            )
    set_peft_model_state_dict(model, dict(saved))  # older versions change what they are given
    loaded = get_peft_model_state_dict(model)
    lost = [
        name for name, tensor in saved.items() if not torch.equal(loaded[name].cpu(), tensor.to(loaded[name].dtype))
    ]
    if lost:
        raise ValueError(f"peft did not load {lost[0]} from {path}: is its version another than when it was saved?")
