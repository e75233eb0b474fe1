"""What a model card shows of a trainer's evaluations: which of them, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selmix_hf.reports.tables import classes_of, classes_shown, comparison_table, interval_note, row_titles

_SETS = {
    "test": "test {}, which took no part in training or selection",
    "eval": "**validation {}, which steered the training or selected the checkpoint**: expect less on new ones. No "
    "interval is given, as none would hold",
}
SHOWN_PREFIXES = tuple(_SETS)  # of evaluations, the first there is


def reports_in(
    evaluations: Sequence[Mapping[str, Any]], kept_step: int
) -> tuple[str, dict[str, Any] | None, dict[str, Any] | None]:
    """The reports of the start and of the kept weights: on "test" if the latter were evaluated there, else on "eval".

    Args:
        evaluations: logs, each with the "step" of the weights that it describes.
        kept_step: of the weights that are saved.

    Returns:
        the prefix, the report of the start and that of the kept weights; None where there is none.
    """
    for prefix in SHOWN_PREFIXES:
        logs = [log for log in evaluations if f"{prefix}_mean_recall" in log]
        after = next((log for log in reversed(logs) if log["step"] == kept_step), None)
        if after is not None:
            start = next((log for log in logs if log["step"] == 0 and log is not after), None)
            return prefix, _without(prefix, start), _without(prefix, after)
    return "eval", None, None


def _without(prefix: str, log: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if log is None:
        return None
    return {name.removeprefix(f"{prefix}_"): value for name, value in log.items() if name.startswith(f"{prefix}_")}


def results_text(
    prefix: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    samples: str,
    remark: str = "",
    objective: str | None = None,
) -> str:
    """The results, Markdown: the set, a remark, the table, and of many classes the recalls of all, a click away.

    Args:
        prefix, before, after: of `reports_in`.
        samples, objective: see `tables.row_titles`.
        remark: a sentence.
    """
    if after is None:
        return "Not evaluated."
    start, fresh = [] if before is None else [before], prefix == "test"
    every = {name: name.removeprefix("recall/") for name in classes_of([after])}
    shown = classes_shown(start or [after], [after])
    titles = row_titles([*start, after], samples, objective) | {name: f"recall of {every[name]}" for name in shown}
    parts = [
        f"On {_SETS[prefix].format(samples)}.{' ' * bool(remark)}{remark}",
        comparison_table(titles, start, [after], recall_intervals=fresh),
    ]
    if fresh:
        parts.append(interval_note(f"test {samples}", worst_share="worst_share" in after))
    if len(shown) < len(every):
        known = start if classes_of(start) else []
        parts += [
            f"<details><summary>Recall of all {len(every):,} classes</summary>",
            comparison_table(every, known, [after], recall_intervals=fresh),
            "</details>",
        ]
    return "\n\n".join(parts)
