"""The card of a model fine-tuned by SelMix: what was measured, on which samples, and by which settings."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from selmix_hf.config import SelMixConfig
from selmix_hf.data.modality import samples_of
from selmix_hf.data.split import LongTailedSplit
from selmix_hf.data.weighted import in_words
from selmix_hf.hub.card_frame import PAPER, assemble, auto_class_of, fill, has_pipeline, task_of
from selmix_hf.hub.card_results import reports_in, results_text
from selmix_hf.hub.upload import hub_id
from selmix_hf.models.architectures import home_of_architecture
from selmix_hf.models.peft_models import CLASS_NAMES, base_name_of, base_of, describe_adapter
from selmix_hf.options import Option, options_of
from selmix_hf.reports.machine import hardware
from selmix_hf.reports.provenance import own_command
from selmix_hf.reports.registry import METRICS, Place, titles_in


def render(
    name: str,
    model: Any,
    args: SelMixConfig,
    objective: str,
    class_names: list[str],
    train_counts: np.ndarray,
    evaluations: Sequence[Mapping[str, Any]],
    kept_step: int,
    *,
    license: str | None = None,
    language: str | None = None,
    tags: str | list[str] | None = None,
    finetuned_from: str | None = None,
    tasks: str | list[str] | None = None,
    dataset_tags: str | list[str] | None = None,
    dataset: str | list[str] | None = None,
    measured_id: str | None = None,
    split_digest: str | None = None,
    remark: str = "",
    command: str | None = None,
    num_unlabeled: int = 0,
    mixing: str | None = None,
    sampling: str | list[float] | None = None,
) -> ModelCard:
    """The card, with model-index metadata.

    Args:
        name: of the model.
        model, args, objective, class_names, train_counts (K): of the trainer.
        evaluations, kept_step: see `reports_in`; all numbers come from there.
        license, language, tags, finetuned_from, tasks, dataset_tags, dataset: as for Trainer's `create_model_card`;
            `dataset_tags` are Hub ids, `dataset` is a name for people; the default of `tasks` follows from the model.
        measured_id: see `CardFacts`.
        split_digest: sha256 that fixes the splits; default is that of split.json in output_dir.
        remark: a sentence beside the results.
        num_unlabeled: unlabelled samples that took part.
        mixing: its name, where that is not the one in `args`.
        sampling: likewise; "sample_weights" where every sample has its own.
        command: that made the model; default is this process's own, without the values of token options.
    """
    prefix, before, after = reports_in(evaluations, kept_step)
    folder = Path(str(args.output_dir))
    split = folder / "split.json"
    if split_digest is None and split.is_file():
        split_digest = LongTailedSplit.load(split).digest
    whole = base_of(model)
    task = next(iter(_listed(tasks)), None) or task_of(type(whole).__name__) or "image-classification"
    base = finetuned_from or base_name_of(model) or None
    facts = CardFacts(
        name=name,
        base=base,
        base_id=hub_id(base),
        task=task,
        objective=objective,
        settings=args.to_dict()
        | {name: value for name, value in (("mixing", mixing), ("sampling", sampling)) if value is not None},
        class_names=class_names,
        train_counts=train_counts.tolist(),
        set_name={"test": "test", "eval": "validation"}[prefix],
        measured=after,
        results=results_text(prefix, before, after, samples_of(task), remark, objective),
        plots=[path.name for path in sorted((folder / "plots").glob("*.png"))],
        digest=split_digest,
        command=command or own_command(sys.argv),
        versions={"transformers": transformers.__version__, "torch": torch.__version__},
        hardware=hardware(args.world_size, args.device.type == "cpu"),
        import_first=home_of_architecture(whole.config),
        dataset_ids=_listed(dataset_tags),
        dataset_names=_listed(dataset),
        measured_id=measured_id,
        num_unlabeled=num_unlabeled,
        adapter=describe_adapter(model),
    )
    return card_of(facts, license, language, _listed(tags))


@dataclass(kw_only=True)
class CardFacts:
    """What a card tells, from a trainer or from a recorded run.

    Attributes:
        name, base, task: of the model, of what it was fine-tuned from, and its pipeline.
        base_id: of the base on the Hub, for the metadata.
        objective: its name.
        settings: options by name; those that are SelMix's and not at their default are shown.
        class_names, train_counts: K each.
        set_name: "test" or "validation", where `measured` comes from.
        measured: report of `classification_metrics` for the model-index; None for none.
        results: Markdown.
        plots: files in plots/.
        digest: of the split.
        command, versions, hardware: of the run.
        dataset_ids, dataset_names: on the Hub, and for people.
        measured_id: Hub id of the set that was measured, or "unknown"; default is the first of `dataset_ids`.
        num_unlabeled: unlabelled samples that took part.
        import_first: the module that must be imported before the model can be loaded; None for none.
        adapter: what was trained beside the head, such as "LORA of rank 8"; None where no adapter was.
    """

    name: str
    base: str | None
    base_id: str | None
    task: str
    objective: str
    settings: Mapping[str, Any]
    class_names: Sequence[str]
    train_counts: Sequence[int]
    set_name: str
    measured: Mapping[str, Any] | None
    results: str
    plots: Sequence[str]
    digest: str | None
    command: str | None
    versions: Mapping[str, str]
    hardware: str | None = None
    dataset_ids: Sequence[str] = ()
    dataset_names: Sequence[str] = ()
    measured_id: str | None = None
    num_unlabeled: int = 0
    import_first: str | None = None
    adapter: str | None = None


def card_of(
    facts: CardFacts, license: str | None = None, language: str | None = None, tags: Sequence[str] = ()
) -> ModelCard:
    """The card, with model-index metadata."""
    ids, names = list(facts.dataset_ids), facts.dataset_names
    measured_id = facts.measured_id or (ids[0] if ids else "unknown")
    mixed = facts.settings.get("sampling") is None  # not in older records
    measured = facts.measured or {}
    results = [
        EvalResult(
            task_type=facts.task,
            dataset_type=measured_id,
            dataset_name=names[0] if names else measured_id,
            dataset_split=facts.set_name,
            metric_type=metric,
            metric_name=title,
            metric_value=round(float(measured[metric]), 4),
        )
        for metric, title in titles_in([measured], [Place.OVERALL, Place.KEY]).items()
        if METRICS[metric].higher_is_better
    ]
    relation: dict[str, Any] = {"base_model_relation": "adapter"} if facts.adapter and facts.base_id else {}
    data = ModelCardData(
        language=language,
        license=license,
        library_name="peft" if facts.adapter else "transformers",
        pipeline_tag=facts.task,
        tags=[*["selmix"] * mixed, "long-tailed", *tags],
        datasets=ids or None,
        base_model=facts.base_id,
        model_name=facts.name,
        eval_results=results or None,
        **relation,
    )
    return assemble(data, fill("card.md", _values(facts)), license, mixed)


def _values(facts: CardFacts) -> dict[str, str | None]:
    """What card.md names; None for what it is then silent of."""
    given = {name: facts.settings.get(name) for name in sorted(_SETTINGS)}
    own = {name: value for name, value in given.items() if not _SETTINGS[name].is_default(value)}
    counts, names = facts.train_counts, facts.class_names
    ends = [f"{counts[k]:,} of {names[k]}" for k in (int(np.argmax(counts)), int(np.argmin(counts)))]
    beside = f"; beside them {facts.num_unlabeled:,} without labels" if facts.num_unlabeled else ""
    plots = [f"![{Path(plot).stem.replace('_', ' ')}](plots/{plot})" for plot in facts.plots]
    return {
        "name": facts.name,
        "summary": _summary(facts),
        "results": facts.results,
        "plots": "\n\n".join(plots) or None,
        "use": _use(facts),
        "objective": facts.objective,
        "samples": samples_of(facts.task),
        "classes": f"{sum(counts):,} of {len(names)} classes, from {ends[0]} down to {ends[1]}{beside}",
        "settings": str(own),
        "digest": facts.digest or None,
        "command": facts.command or None,
        "hardware": facts.hardware or None,
        "versions": ", ".join(f"{name} {version}" for name, version in facts.versions.items()),
    }


def _use(facts: CardFacts) -> str:
    needs = (
        f"import {facts.import_first}  # of selmix_hf: timm itself lacks the architecture\n"
        if facts.import_first
        else ""
    )
    if not facts.adapter and not has_pipeline(facts.task):
        return "`from_pretrained` of the model's own class loads it; transformers has no pipeline for this task."
    if not facts.adapter:
        call = f'classify = pipeline("{facts.task}", "{facts.name}")'
        if facts.task == "text-classification":
            call += '\nclassify("...", truncation=True)  # a text that is too long is cut'
        return f"```python\n{needs}from transformers import pipeline\n\n{call}\n```"
    auto, base = auto_class_of(facts.task), facts.base_id or "<the base model>"
    lines = [
        f"{needs}from peft import PeftModel",
        f"from transformers import {auto}\n",
        f'base = {auto}.from_pretrained("{base}", num_labels={len(facts.class_names)}, ignore_mismatched_sizes=True)',
        f'model = PeftModel.from_pretrained(base, "{facts.name}")',
    ]
    return (
        "```python\n" + "\n".join(lines) + "\n```\n\n"
        f"These are the adapter and the head; the rest is the base model's. `{CLASS_NAMES}` names the classes in the "
        "order of the logits, and `model.merge_and_unload()` is a standard model."
    )


_OF_TRAINER = {"seed", "weight_decay", "gradient_accumulation_steps", "per_device_train_batch_size", "optim"}
_OF_TRAINER |= {"lr_scheduler_type", "max_grad_norm", "metric_for_best_model"}
_SETTINGS = {field.name: Option(default=field.default) for field in fields(SelMixConfig) if field.name in _OF_TRAINER}
_SETTINGS |= {name: option for name, option in options_of(SelMixConfig).items() if option.on_card}


def _listed(value: str | list[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _summary(facts: CardFacts) -> str:
    start = f"`{hub_id(facts.base) or Path(facts.base).name}`" if facts.base else "A classifier"
    constraints = f" under the constraints {facts.settings['constraints']}" if facts.settings["constraints"] else ""
    which = "its head alone, on a frozen backbone" if facts.settings["freeze_backbone"] else "all of its weights"
    which = f"its head and an adapter, {facts.adapter}" if facts.adapter else which
    sampling = facts.settings.get("sampling")
    if sampling is not None:
        chosen = "The checkpoint was chosen" if facts.settings.get("load_best_model_at_end") else "It is measured"
        return (
            f"{start}, fine-tuned ({which}) on single samples of long-tailed data (drawn: {in_words(sampling)}) "
            f"with `selmix_hf`. {chosen} by `{facts.objective}`{constraints}, which did not steer the training."
        )
    return (
        f"{start}, fine-tuned ({which}) for `{facts.objective}`{constraints} on long-tailed data by "
        f"{PAPER}, as implemented in `selmix_hf`."
    )
