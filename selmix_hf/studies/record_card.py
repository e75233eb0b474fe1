"""The card of a run that a recipe recorded in its results.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCard

from selmix_hf.data.modality import samples_of
from selmix_hf.hub.card import CardFacts, card_of
from selmix_hf.method.ranking import comparable
from selmix_hf.reports.registry import Place, titles_in
from selmix_hf.reports.tables import before_after_table, interval_cell, interval_note, number_cell
from selmix_hf.studies.results import Results


def released_run(results: Results) -> int:
    """The seed whose weights are the model: the best on validation, since choosing on test would flatter it."""
    scores = [comparable((run.validation_after or {})["eval_selection_score"]) for run in results.runs]
    return scores.index(max(scores))


def render_record(record: Mapping[str, Any], plots: list[str], license: str | None = None) -> ModelCard:
    """The card, with model-index metadata of the released seed and a table over all seeds.

    Args:
        record: content of results.json.
        plots: files in plots/, beside the card.
        license: an identifier of the Hub.
    """
    results = Results.from_dict(record)
    runs, released = results.runs, results.runs[released_run(results)]
    task = results.task or "image-classification"
    samples = samples_of(task)
    seeds = ", ".join(str(run.seed) for run in runs)
    table = before_after_table(
        [run.test_before for run in runs],
        [run.test_after for run in runs],
        results.change_and_interval or None,
        per_class=True,
        samples=samples,
        objective=results.objective,
    )
    after = released.test_after
    titles = titles_in([after], [Place.KEY])
    own = {name: interval_cell([after], name) for name in titles}
    numbers = ", ".join(
        f"{title} {number_cell(name, after[name])}" + f" ({own[name]})" * bool(own[name])
        for name, title in titles.items()
    )
    interval = "; the interval of a change is a paired bootstrap's" if results.change_and_interval else ""
    several = (
        f" Mean ± standard deviation over seeds {seeds}{interval}. The model is that of seed {released.seed}, the "
        f"best on validation: {numbers}."
        if len(runs) > 1
        else ""
    )
    note = interval_note(f"test {samples}", len(runs), "worst_share" in after)
    remark = f" {results.remark}" if results.remark else ""
    measured_on = f"On test {samples}, which took no part in training or selection."
    base = results.base_model
    facts = CardFacts(
        name=results.name,
        base=base,
        base_id=base if "/" in (base or "") else None,  # a bare name may be a folder's
        task=task,
        objective=results.objective,
        settings=results.settings,
        class_names=results.class_names,
        train_counts=results.train_counts,
        set_name="test",
        measured=after,
        results=f"{measured_on}{several}{remark}\n\n{table}\n\n{note}",
        plots=plots,
        digest=results.split_digest,
        command=results.command,
        versions=results.versions,
        hardware=results.hardware,
        dataset_ids=[results.dataset_id] if results.dataset_id else [],
        dataset_names=[results.dataset],
        num_unlabeled=results.num_unlabeled or 0,
    )
    return card_of(facts, license)
