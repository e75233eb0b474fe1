"""Tables and the picture of docs/many_classes.md, from what `benchmarks.natural` measured.

python -m benchmarks.natural_report natural/results benchmarks/recorded/natural.json     # joins the records
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selmix_hf.reports.tables import markdown_table, mean_and_sd

SELMIX, BEFORE = "SelMix", "tuned on ten classes"
HEADS = ("balanced-softmax head", "logit-adjusted head", "class-balanced head")
METHODS = (*HEADS, "uniform pairs", BEFORE, SELMIX)
TITLES = {
    "mean_recall": "mean recall",
    "worst_share_recall": "mean of the worst tenth",
    "zero_recall_classes": "classes at 0",
    "h_mean": "H-mean",
    "g_mean": "G-mean",
    "min_recall": "worst class",
}
_LEAST = -0.18  # of a picture
Record = Mapping[str, Any]


def joined(folder: Path) -> list[dict[str, Any]]:
    """The records of all starts, in the order of `natural_starts.STARTS`, without what no table needs."""
    from benchmarks.natural_starts import STARTS

    order = {name: place for place, name in enumerate(STARTS)}
    records = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    return sorted(records, key=lambda record: order[record["start"]])


def values(record: Record, method: str, objective: str, name: str) -> list[float]:
    """Of all seeds."""
    return [run[name] for run in record["methods"].get(method, {}).get(objective, {}).values()]


def best_head(record: Record, objective: str) -> float:
    """The best of the retrained heads in the objective on the test set: an optimistic choice, and theirs to keep."""
    return max(float(np.mean(values(record, method, objective, objective))) for method in HEADS)


def short(text: str) -> str:
    return text.replace("0.", ".")


def summary_table(records: Sequence[Record], objective: str) -> str:
    """A row a start, a column a method: the objective on the test set, mean ± standard deviation over seeds."""
    rows = []
    for record in records:
        sizes, error = record["samples"], record["standard_error"]
        steer = "–".join(dict.fromkeys(map(str, sizes["gain"])))
        row = [record["start"], f"{record['num_classes']:,}", steer, short(f"{record['before'][objective]:.3f}")]
        found = [values(record, method, objective, objective) for method in METHODS]
        row += [short(mean_and_sd(of_method)) if of_method else "" for of_method in found]
        rows.append([*row, short(f"{error:.3f}")] if objective == "mean_recall" else row)
    header = ["start", "K", "steer, a class", "the start", *METHODS]
    return markdown_table([*header, "standard error"] if objective == "mean_recall" else header, rows)


def single_table(record: Record) -> str:
    """All objectives from one start: a row for each and each method that has it."""
    rows = []
    objectives = dict.fromkeys(o for of_method in record["methods"].values() for o in of_method)
    names = ("mean_recall", "worst_share_recall", "zero_recall_classes", "seconds")
    for objective in objectives:
        for method in METHODS:
            if not (found := values(record, method, objective, objective)):
                continue
            cells = [short(mean_and_sd(values(record, method, objective, name))) for name in names[:2]]
            zeros = values(record, method, objective, "zero_recall_classes")
            seconds = f"{np.mean(values(record, method, objective, 'seconds')):.0f}"
            counted = "–".join(dict.fromkeys(str(n) for n in (min(zeros), max(zeros))))
            rows.append([TITLES[objective], method, short(mean_and_sd(found)), *cells, counted, seconds])
    header = ["for", "method", "objective", *[TITLES[name] for name in names[:3]], "seconds"]
    return markdown_table(header, rows)


def readme_table(records: Sequence[Record]) -> str:
    """A row a start: SelMix beside the start and the best retrained head, for two objectives."""
    rows = []
    for record in records:
        row = [record["start"], f"{record['num_classes']:,}"]
        for objective in ("mean_recall", "worst_share_recall"):
            row += [short(f"{record['before'][objective]:.3f}"), short(f"{best_head(record, objective):.3f}")]
            row.append(short(mean_and_sd(values(record, SELMIX, objective, objective))))
        rows.append(row)
    parts = ("the start", "best retrained head", SELMIX)
    titles = [f"{kind}, {part}" for kind in ("mean recall", "worst tenth") for part in parts]
    return markdown_table(["start", "K", *titles], rows)


def save_plot(records: Sequence[Record], path: Path) -> None:
    """SelMix, uniform pairs and the earlier settings less the best retrained head, for both objectives."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 0.38 * len(records) + 1.6), sharey=True, layout="constrained")
    marks = {BEFORE: ("x", "tab:grey"), "uniform pairs": ("s", "tab:orange"), SELMIX: ("o", "tab:blue")}
    places = np.arange(len(records))[::-1]
    for axis, objective in zip(axes, ("mean_recall", "worst_share_recall"), strict=True):
        for method, (mark, colour) in marks.items():
            found = [values(record, method, objective, objective) or [np.nan] for record in records]
            gained = np.array([np.mean(own) - best_head(r, objective) for own, r in zip(found, records, strict=True)])
            axis.plot(np.where(gained < _LEAST, np.nan, gained), places, mark, color=colour, label=method, alpha=0.85)
            for value, place in zip(gained, places, strict=True):
                if value < _LEAST:  # else the rest would be a line
                    text = f"◂ {value:.2f}".replace("-", "−")
                    axis.text(_LEAST, place, text, color=colour, va="center", fontsize=9)
        if objective == "mean_recall":
            errors = [record["standard_error"] for record in records]
            axis.barh(places, 2 * np.array(errors), left=-np.array(errors), color="0.9", label="± one standard error")
        axis.set_xlim(left=_LEAST - 0.01)
        axis.axvline(0, color="0.4", linewidth=0.8)
        axis.set_xlabel(f"{TITLES[objective]}, less that of the best head")
        axis.locator_params(axis="x", nbins=5)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(places, [f"{record['start']} ({record['num_classes']:,})" for record in records])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="results of benchmarks.natural")
    parser.add_argument("record", type=Path)
    given = parser.parse_args(argv)
    given.record.write_text(json.dumps(joined(given.folder), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
