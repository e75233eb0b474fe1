"""What a checkpoint knows of its run's options: a run goes on with the same ones, or where the user asks for it with
others, and that is said.

What is known of an option stands where the options are: `trainer_options` for those of Trainer, the options of
`SelMixConfig` themselves, and here the arguments of trainers and the facts of a model.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selmix_hf.models.peft_models import base_of
from selmix_hf.options import options_of
from selmix_hf.trainer_options import FREE_ON_RESUME, SAID_ON_RESUME
from selmix_hf.training.descriptions import described
from selmix_hf.training.readable import read_json

FILE_NAME = "options.json"  # in every checkpoint
KEPT_PARAMETERS = frozenset(  # of trainers
    """
    data_collator processing_class train_transform eval_transform objective mixing sample_weights head_name teacher
    loss mixup_alpha sampling compute_loss_func optimizers optimizer_cls_and_kwargs mu ema_decay unlabeled_weight
    rampup_steps weak_transform strong_transform threshold temperature
    """.split()
)
FREE_PARAMETERS = frozenset(  # sets and classes are compared by `same_data`, arguments and model below
    """
    model args model_init train_dataset eval_dataset gain_dataset unlabeled_dataset unlabeled_labels label_column
    class_order on_bad_image callbacks compute_metrics preprocess_logits_for_metrics
    """.split()
)
_WITHIN_OBJECTS = re.compile(  # what an object counts or was told of folders and flags is no other object
    r"trainer\.(data_collator|processing_class|compute_loss_func|teacher|(train|eval|weak|strong)_transform)\."
)
_POSITIONS = ("model", "args", "data_collator", "train_dataset", "eval_dataset", "processing_class")
_OF_STEP = ("per_device_train_batch_size", "gradient_accumulation_steps")
_LENGTH = ("max_steps", "num_train_epochs")
_WITHOUT_END = ("constant", "constant_with_warmup", "reduce_lr_on_plateau", "greedy")  # schedules
# nothing would be comparable, or the weights would have no place
_STRICT = ("metric_for_best_model", "greater_is_better", "trainer", "model.class", "model.tensors", "model.weights")
_NOT_OF_MODEL = frozenset(  # in its config: names, and what saving, loading and running write there
    """
    transformers_version architectures dtype torch_dtype problem_type id2label label2id label_names num_labels
    num_classes name_or_path use_cache return_dict output_attentions output_hidden_states pretrained_cfg
    bos_token_id eos_token_id pad_token_id
    """.split()
)


def facts_of(trainer: Any) -> dict[str, Any]:
    """What fixes the weights that a run of a trainer ends at, by dotted names, in plain values."""
    args = trainer.args
    own = options_of(args)
    facts = {"trainer": type(trainer).__name__, "device": args.device.type}
    for name in (field.name for field in dataclasses.fields(args)):
        one = own.get(name)
        if name not in FREE_ON_RESUME and name not in _OF_STEP and (one is None or one.kept_on_resume is not None):
            value = getattr(args, name)
            facts |= described(None if one is not None and one.worked_out and not value else value, name)
    sizes = args.train_batch_size, args.gradient_accumulation_steps, args.world_size
    facts |= {"samples_per_step": sizes[0] * sizes[1] * sizes[2], "step": " x ".join(map(str, sizes))}
    if trainer.given_facts is None:  # once: some count what they do
        given = {
            f"trainer.{name}": value for name, value in _parameters_of(trainer).items() if name in KEPT_PARAMETERS
        }
        trainer.given_facts = {
            key: part for name, value in given.items() for key, part in described(value, name).items()
        }
    facts |= trainer.given_facts
    facts |= {f"model.{name}": value for name, value in _of_model(trainer.model).items()}
    if not getattr(args, "freeze_backbone", False):  # then it is the head
        facts["model.trained"] = sum(one.numel() for one in trainer.model.parameters() if one.requires_grad)
    return facts


def save_options(folder: str | os.PathLike[str], facts: Mapping[str, Any], inexact: list[str]) -> None:
    """Write them into the folder of a checkpoint.

    Args:
        facts: `facts_of` the run.
        inexact: one sentence for each time that the run went on inexactly.
    """
    text = json.dumps({"options": facts, "inexact": inexact}, indent=1)
    (Path(folder) / FILE_NAME).write_text(text, encoding="utf-8")


def read_options(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], list[str]]:
    """What `save_options` wrote; nothing of a checkpoint of an older version."""
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        return {}, []
    read = read_json(path)
    return read["options"], read["inexact"]


@dataclasses.dataclass
class Changes:
    """The options that are others than in a checkpoint, as phrases such as "target_share=0.9, which was 0.5".

    Attributes:
        refused: what a run goes on with only inexactly; `never` where not even so.
        said: what leaves the weights as they are, or which of them are kept, or their last digits.
        sizes: how a step is cut into batches and processes.
    """

    refused: list[str] = dataclasses.field(default_factory=list)
    never: list[str] = dataclasses.field(default_factory=list)
    said: list[str] = dataclasses.field(default_factory=list)
    sizes: list[str] = dataclasses.field(default_factory=list)


def changes_of(before: Mapping[str, Any], now: Mapping[str, Any], elsewhere: frozenset[str] = frozenset()) -> Changes:
    """Judge what is in both and differs; what only one version of a library has is not compared.

    Args:
        before: facts of the run that saved.
        now: of the run that goes on.
        elsewhere: names that another check compares.
    """
    found = Changes()
    for name, value in now.items():
        top = name.partition(".")[0]
        if name not in before or before[name] == value or {name, top} & elsewhere or _is_free(name, before, now):
            continue
        if name == "step":
            kind = found.sizes
        elif top in SAID_ON_RESUME or name == "device" or _WITHIN_OBJECTS.match(name):
            kind = found.said
        elif name in _STRICT:
            kind = found.never
        else:
            kind = found.refused
        kind.append(f"{name}={value!r}, which was {before[name]!r}")
    return found


def has_dropout(facts: Mapping[str, Any]) -> bool:
    """Whether a model has any, by the facts of it."""
    return any(bool(value) for name, value in facts.items() if name.startswith("model.") and "drop" in name)


def draws_by_step(trainer: Any) -> bool:
    """Whether what a step sees depends on nothing but its number, as in a `SelMixTrainer`."""
    return hasattr(trainer, "pair_state")


def elsewhere_of(trainer: Any) -> frozenset[str]:
    """What a trainer compares by the geometry of its draws, and refuses at any rate."""
    if not trainer.has_geometry and not draws_by_step(trainer):
        return frozenset()
    kept = (name for name, one in options_of(trainer.args).items() if one.kept_on_resume)
    given = (f"trainer.{name}" for name in ("objective", "mixing", "mu", "sample_weights"))
    return frozenset({"seed", "data_seed", "samples_per_step", *given, *kept})


def _is_free(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """The length of a run, where neither the schedule nor the loss looks at it."""
    warmup = now.get("warmup_steps") or 0
    without_end = now.get("lr_scheduler_type") in _WITHOUT_END and not 0 < warmup < 1
    return name in _LENGTH and without_end and now.get("trainer.loss") != "ldam_drw"


def _parameters_of(trainer: Any) -> dict[str, Any]:
    """The arguments that a trainer was made with, and the defaults of others."""
    found: dict[str, Any] = {}
    for cls in reversed(type(trainer).__mro__):
        if make := vars(cls).get("__init__"):
            parameters = inspect.signature(make).parameters.values()
            found |= {one.name: one.default for one in parameters if one.default is not one.empty}
    positional, named = trainer.made_with
    found |= dict(zip(_POSITIONS, positional, strict=False))
    return found | dict(named)


def _of_model(model: Any) -> dict[str, Any]:
    whole, parameters = base_of(model), list(model.parameters())
    rates: Counter[float] = Counter()
    for module in whole.modules():
        rate = getattr(module, "p", getattr(module, "drop_prob", 0.0)) if "Drop" in type(module).__name__ else 0.0
        rates.update([float(rate)] if rate else [])
    facts: dict[str, Any] = {
        "class": type(whole).__name__,
        "tensors": len(parameters),
        "weights": sum(one.numel() for one in parameters),
        "dtype": ", ".join(sorted({str(one.dtype) for one in parameters})),
        "dropout": ", ".join(f"{count} x {rate:g}" for rate, count in sorted(rates.items())),
    }
    config: Any = getattr(whole, "config", None)
    options = config.to_dict() if hasattr(config, "to_dict") else {}
    for name, value in options.items():
        if name not in _NOT_OF_MODEL and not name.startswith("_"):
            facts |= described(value, f"config.{name}")
    return facts
