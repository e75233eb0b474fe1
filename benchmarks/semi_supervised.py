"""Semi-supervised SelMix on real CIFAR-10 under three distributions of the unlabelled images.

    SELMIX_REFERENCE_DATA=... OMP_NUM_THREADS=1 python -m benchmarks.semi_supervised OUTPUT --json RECORD.json

N1 = 1,500 and M1 = 3,000 with rho_l = 100, at 64 px from ImageNet weights (tf_efficientnet_lite0). For each rho_u of
100, 1 and 1/100: FixMatch(LA) for 600 steps on the labelled and unlabelled images alone, one run; from there, with the
backbone frozen, SelMix for the worst class with labelled images only, with pseudo-labels, and with the true labels of
the unlabelled images (an upper bound), three seeds each. At both ends also a run whose pseudo-labels are all wrong.
At rho_u = 100 also the first two with all weights trained, and other first stages: supervised, Mean Teacher, MixMatch.
A run whose results.json is there is not repeated. `recipes/cifar10_lt_ssl.py` does the work; its options are below.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recipes import cifar10_lt_ssl
from selmix_hf.reports.plots import make_figure
from selmix_hf.reports.registry import metric_title
from selmix_hf.reports.tables import INTERVAL, interval_cell, markdown_table, mean_and_sd
from selmix_hf.studies.data import BenchmarkData
from selmix_hf.studies.run import run_recipe

RHO_U = {"100": "100", "1": "1 (uniform)", "0.01": "1/100 (inverted)"}
WAYS = {"labelled": "SelMix, labelled only", "semi": "SelMix, pseudo-labels", "oracle": "SelMix, true labels (oracle)"}
ORACLE = ["--pseudo_label_source", "oracle"]
OPTIONS = {"labelled": ["--use_unlabeled", "false"], "semi": [], "oracle": ORACLE, "wrong": ORACLE}
STAGE1 = {
    "fixmatch": "FixMatch(LA)",
    "supervised": "logit-adjusted, labelled images only",
    "mean_teacher": "Mean Teacher(LA)",
    "mixmatch": "MixMatch(LA)",
}
ENDS = ("100", "0.01")
ALL_WEIGHTS = (
    "--freeze_backbone false --augment true --learning_rate 0.03 --backbone_learning_rate 0.0003 "
    "--per_device_train_batch_size 32 --max_steps 240 --refresh_steps 20 --pseudo_label_steps 120 "
    "--min_memory 0.5 --min_rate 20"
).split()
MU = {"fixmatch": 3, "mean_teacher": 3, "mixmatch": 1}
LOGGED = ("step", "pseudo_label_accuracy", "pseudo_label_worst_recall", "pseudo_label_missing")
COLUMNS = ("mean_recall", "min_recall", "h_mean", "smallest_coverage")
TITLES = [metric_title(column) for column in COLUMNS]
HEADER = [*TITLES, f"worst class, {INTERVAL}"]
COLOURS = ("#9aa5b1", "#d98c3f", "#1f6fb2", "#b9d3ea")
IMAGES = Path(__file__).parents[1] / "docs" / "images"


def load_wrong(arguments: cifar10_lt_ssl.Arguments, folder: Path) -> BenchmarkData:
    """The data, every unlabelled image said to be of the class after its own."""
    data = cifar10_lt_ssl.load(arguments, folder)
    data.unlabeled_labels = ((np.asarray(data.unlabeled_labels) + 1) % len(data.class_names)).tolist()
    return data


def run(folder: Path, options: list[str], load: Callable = cifar10_lt_ssl.load) -> dict[str, Any]:
    """results.json of one run of the recipe."""
    if not (folder / "results.json").is_file():
        root = Path(os.environ["SELMIX_REFERENCE_DATA"])
        common = ["--config", str(Path(cifar10_lt_ssl.__file__).parent / "configs" / "cifar10_lt_ssl_min_recall.yaml")]
        common += ["--dataset", str(root / "data" / "cifar10"), "--image_size", "64", "--channels_last", "--use_cpu"]
        common += ["--model_name_or_path", str(root / "checkpoints" / "imagenet1k-tf_efficientnet_lite0")]
        common += ["--seeds", "0", "1", "2"]
        if "--freeze_backbone" not in options:
            common += ["--feature_cache_dir", str(folder.parent / "features")]
        run_recipe(
            "cifar10_lt_ssl.py", cifar10_lt_ssl.Arguments, load, [*common, "--output_dir", str(folder), *options]
        )
    results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return results


def kept(results: Mapping[str, Any]) -> dict[str, Any]:
    """What the table and the plots need."""
    own = ("hardware", "command", "split_digest", "train_counts", "class_names", "timing")
    runs = [{name: one[name] for name in ("seed", "test_before", "test_after")} for one in results["runs"]]
    for run, one in zip(runs, results["runs"], strict=True):
        logs = one.get("pseudo_labels", [])
        run["pseudo_labels"] = [{name: log[name] for name in LOGGED} for log in logs if log["step"] % 100 == 0]
        run["pseudo_labels"] += [{name: log[name] for name in LOGGED} for log in logs[-1:]]
    return {name: results[name] for name in own} | {"runs": runs}


def measure(output: Path) -> dict[str, Any]:
    """Record of all runs, by their names."""
    record = {}
    for rho in RHO_U:
        drawn = ["--unlabeled_imbalance_factor", rho]
        for method in STAGE1 if rho == "100" else ["fixmatch"]:
            first = output / f"{method}_{rho}_semi"
            stage1 = ["--stage1_method", method]
            stage1 += ["--stage1_mu", str(MU[method])] if method in MU else []
            record[first.name] = kept(run(first, [*drawn, *stage1]))
            start = ["--stage1_steps", "0", "--model_name_or_path", str(first / "stage1")]
            start += ["--split", str(first / "split.json")]
            for way in ("labelled", "oracle"):
                folder = output / f"{method}_{rho}_{way}"
                record[folder.name] = kept(run(folder, [*drawn, *start, *OPTIONS[way]]))
            if method == "fixmatch" and rho in ENDS:
                folder = output / f"{method}_{rho}_wrong"
                record[folder.name] = kept(run(folder, [*drawn, *start, *OPTIONS["wrong"]], load_wrong))
            for way in ("labelled", "semi") if method == "fixmatch" and rho == "100" else ():
                folder = output / f"{method}_{rho}_{way}_all"
                record[folder.name] = kept(run(folder, [*drawn, *start, *OPTIONS[way], *ALL_WEIGHTS]))
    return record


def over_seeds(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """Cells of `COLUMNS`."""
    return [mean_and_sd([report[column] for report in reports]) for column in COLUMNS]


def rows_of(record: Mapping[str, Any], method: str, rho: str, title: str) -> list[list[str]]:
    start = record[f"{method}_{rho}_semi"]["runs"][0]["test_before"]
    rows = [[title, STAGE1[method], *[f"{start[c]:.3f}" for c in COLUMNS], interval_cell([start], "min_recall")]]
    for way, name in WAYS.items():
        reports = [one["test_after"] for one in record[f"{method}_{rho}_{way}"]["runs"]]
        rows.append(["", name, *over_seeds(reports), interval_cell(reports, "min_recall")])
    return rows


def table(record: Mapping[str, Any]) -> str:
    """Markdown: each distribution of the unlabelled images from its own start."""
    rows = [row for rho, title in RHO_U.items() for row in rows_of(record, "fixmatch", rho, title)]
    return markdown_table(["ρ_u", "", *HEADER], rows)


def wrong_table(record: Mapping[str, Any]) -> str:
    """Markdown: pseudo-labels of the model, and such that are all wrong."""
    rows = []
    for rho in ENDS:
        for way, name in (("semi", WAYS["semi"]), ("wrong", "every pseudo-label wrong")):
            reports = [one["test_after"] for one in record[f"fixmatch_{rho}_{way}"]["runs"]]
            rows.append([RHO_U[rho] if way == "semi" else "", name, *over_seeds(reports)])
    return markdown_table(["ρ_u", "", *TITLES], rows)


def all_weights_table(record: Mapping[str, Any]) -> str:
    """Markdown: all weights trained, at rho_u = 100; the change by pseudo-labels is that of the same seeds."""
    reports = {
        way: [one["test_after"] for one in record[f"fixmatch_100_{way}_all"]["runs"]] for way in ("labelled", "semi")
    }
    rows = [[WAYS[way], *over_seeds(of_way)] for way, of_way in reports.items()]
    pairs = list(zip(reports["semi"], reports["labelled"], strict=True))
    change = over_seeds([{column: a[column] - b[column] for column in COLUMNS} for a, b in pairs])
    rows.append(["change by pseudo-labels", *[one if one[0] == "-" else f"+{one}" for one in change]])
    return markdown_table(["all weights, ρ_u = 100", *TITLES], rows)


def stage1_table(record: Mapping[str, Any]) -> str:
    """Markdown: SelMix after other first stages, at rho_u = 100."""
    methods = [method for method in STAGE1 if f"{method}_100_semi" in record]
    rows = [row for method in methods for row in rows_of(record, method, "100", "")]
    return markdown_table(["", *HEADER], [row[1:] for row in rows])


def pseudo_label_table(record: Mapping[str, Any]) -> str:
    """Markdown: the pseudo-labels at the beginning and at the end, mean over seeds."""
    rows = []
    for rho, title in RHO_U.items():
        runs = record[f"fixmatch_{rho}_semi"]["runs"]
        for name, place in (("first", 0), ("last", -1)):
            logs = [one["pseudo_labels"][place] for one in runs]
            keys = ("pseudo_label_accuracy", "pseudo_label_worst_recall", "pseudo_label_missing")
            rows.append([title, name, *[f"{np.mean([log[key] for log in logs]):.3f}" for key in keys]])
    return markdown_table(["ρ_u", "labels", "accuracy", "recall of the worst class", "classes without any"], rows)


def save_plots(record: Mapping[str, Any]) -> None:
    """Recall of each class, and the accuracy of the pseudo-labels over the steps."""
    IMAGES.mkdir(exist_ok=True)
    figure = make_figure(12, 7.5)
    for number, (rho, title) in enumerate(RHO_U.items(), 1):
        axes, names = figure.add_subplot(3, 1, number), record["fixmatch_100_semi"]["class_names"]
        start = record[f"fixmatch_{rho}_semi"]["runs"][0]["test_before"]
        bars = {"FixMatch(LA)": [start]} | {
            name: [one["test_after"] for one in record[f"fixmatch_{rho}_{way}"]["runs"]] for way, name in WAYS.items()
        }
        for i, ((name, reports), colour) in enumerate(zip(bars.items(), COLOURS, strict=True)):
            recalls = [np.mean([report[f"recall/{k}"] for report in reports]) for k in names]
            axes.bar(np.arange(len(names)) + (i - 1.5) * 0.2, recalls, 0.2, label=name, color=colour)
        axes.set_xticks(range(len(names)), names)
        axes.set_ylabel("test recall")
        axes.set_ylim(0, 1)
        axes.set_title(f"unlabelled images with $\\rho_u$ = {title}", loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        if number == 1:
            axes.legend(ncols=4, fontsize=8, loc="upper right", frameon=False, bbox_to_anchor=(1, 1.25))
    figure.savefig(IMAGES / "semi_supervised_recalls.png", dpi=110)
    figure = make_figure(7, 3.6)
    axes = figure.add_subplot()
    for (rho, title), colour in zip(RHO_U.items(), ("#1f6fb2", "#d98c3f", "#4c9a57"), strict=True):
        runs = record[f"fixmatch_{rho}_semi"]["runs"]
        steps = [log["step"] for log in runs[0]["pseudo_labels"]]
        for key, style in (("pseudo_label_accuracy", "-"), ("pseudo_label_worst_recall", ":")):
            values = np.mean([[log[key] for log in one["pseudo_labels"]] for one in runs], 0)
            label = f"$\\rho_u$ = {title}" if style == "-" else None
            axes.plot(steps, values, style, color=colour, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("pseudo-labels")
    axes.set_title("accuracy (solid), recall of the worst class (dotted)", loc="left", fontsize=10)
    axes.set_ylim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(IMAGES / "semi_supervised_pseudo_labels.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder of the runs")
    parser.add_argument("--json", type=Path, help="also write the record here")
    options = parser.parse_args()
    record = measure(options.output)
    tables = (table, all_weights_table, wrong_table, pseudo_label_table, stage1_table)
    print("\n\n".join(of_record(record) for of_record in tables))
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
