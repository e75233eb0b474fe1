"""What results.json holds: each field, in the order in which it is written.

Shape suffix of records: K classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from selmix_hf.studies.record import rounded

FILE = "results.json"


class _Absent:
    """In the place of what a record does not hold; false, so that `value or default` has a default for it."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Any = _Absent()


@dataclass(kw_only=True)
class RunResults:
    """One run of SelMix.

    Metrics are those of `reports.metrics.classification_metrics`, by name: recalls and shares between 0 and 1.

    Attributes:
        seed: of the draws.
        seconds: of `trainer.train()`.
        kept_step: optimizer steps behind the weights that were kept; 0: the start was.
        validation_before, validation_after: metrics of the validation samples at the start and of the weights that
            were kept, their names with "eval_" in front; eval_selection_score is what the checkpoint is chosen by.
            None: there was no such look.
        history: of each refresh its step, the objective and recalls on the gain set, and the effective pairs.
        pseudo_labels: of each look at the unlabelled samples its step and what was logged as "pseudo_label...".
            Absent: there were none.
        gain: K x K, of the last period, rows the class whose label is kept, columns the class mixed in. Absent: more
            than `record.MATRIX_CLASSES` classes, or no pairs.
        pair_probability: K x K, the share of each pair of classes in the draws of that period; absent as the gain.
        test_before, test_after: metrics of the test samples, of the start and of the weights that were kept.
    """

    seed: int
    seconds: float
    kept_step: int
    validation_before: dict[str, Any] | None
    validation_after: dict[str, Any] | None
    history: list[dict[str, Any]]
    pseudo_labels: list[dict[str, Any]] = ABSENT
    gain: list[list[float]] = ABSENT
    pair_probability: list[list[float]] = ABSENT
    test_before: dict[str, Any]
    test_after: dict[str, Any]


@dataclass(kw_only=True)
class Results:
    """A recipe's runs from one start, one a seed, and where their numbers come from.

    Attributes:
        name: of the repository on the Hub, without its owner, or of the folder.
        objective: its name.
        constraints: as SelMixConfig has them; None: there are none. Absent from the quickstart's.
        settings: options by name, those of the recipe before those of SelMixConfig; of a path its last part.
        versions: of this package and of those that numbers may depend on, by name.
        hardware: number of processes and the processor, in words.
        command: that made it, without folders.
        base_model: Hub id of the start, or the last part of its path; None: random weights.
        dataset: its name, for people.
        dataset_id: on the Hub, or None.
        task: of the Hub, such as "text-classification". Older records lack it: they are of images.
        split_digest: sha256 of which samples are in "train" and "validation"; None: every seed has splits of its own.
        remark: a sentence that readers of the numbers must know, or "".
        class_names: K.
        train_counts: training samples of each class, K.
        num_unlabeled: unlabelled samples that SelMix drew from. Older records lack it: there were none.
        runs: one a seed.
        change_and_interval: for each metric of the test samples the change from start to end, averaged over seeds, and
            the ends of its paired bootstrap 95% interval; {} where none was worked out.
        timing: `timing.Timer.report`: seconds by part and in all, GiB of memory. Older records and the quickstart's
            lack it.
        test: of the quickstart alone: metrics of the test samples, one report a seed for each method it compares.
    """

    name: str
    objective: str
    constraints: dict[str, Any] | str | None = ABSENT
    settings: dict[str, Any]
    versions: dict[str, str]
    hardware: str
    command: str
    base_model: str | None
    dataset: str
    dataset_id: str | None
    task: str = ABSENT
    split_digest: str | None
    remark: str = ABSENT
    class_names: list[str]
    train_counts: list[int]
    num_unlabeled: int = ABSENT
    runs: list[RunResults]
    change_and_interval: dict[str, Any]
    timing: dict[str, Any] = ABSENT
    test: dict[str, list[dict[str, Any]]] = ABSENT

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Results:
        """Of the content of a results.json, of whatever version: what it lacks is `ABSENT`.

        What older records call macro_f1 is balanced_macro_f1.

        Raises:
            TypeError: it lacks what every record has.
        """
        if 'balanced_macro_f1":' not in json.dumps(record, default=str):  # a key: quotes in texts are escaped
            record = _with_names_of_today(record)
        runs = [RunResults(**_known(RunResults, run)) for run in record["runs"]]
        return cls(**{**_known(cls, record), "runs": runs})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON without what is absent; floats with six digits behind the point, matrices as they are."""
        return dict(rounded({**_held(self), "runs": [_held(run) for run in self.runs]}))

    def save(self, folder: Path) -> None:
        """Write results.json there."""
        (folder / FILE).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")


def _with_names_of_today(part: Any) -> Any:
    """Of a record of older versions, or of a part of one."""
    if isinstance(part, list):
        return [_with_names_of_today(item) for item in part]
    if not isinstance(part, Mapping):
        return part
    names = {f"{prefix}macro_f1": f"{prefix}balanced_macro_f1" for prefix in ("", "eval_")}
    return {names.get(name, name): _with_names_of_today(item) for name, item in part.items()}


def _known(cls: Any, record: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: record[field.name] for field in fields(cls) if field.name in record}


def _held(results: Results | RunResults) -> dict[str, Any]:
    values = {field.name: getattr(results, field.name) for field in fields(results)}
    return {name: value for name, value in values.items() if value is not ABSENT}
