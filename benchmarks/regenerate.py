"""Every table, plot and card that comes from a recorded run, made again from its record.

    python -m benchmarks.regenerate             # writes
    python -m benchmarks.regenerate --check     # says what would change, and fails if anything would

Records: model_cards/<name>/results.json, as the recipes write it, for cards, their plots and the README's results;
benchmarks/recorded/*.json, as the benchmarks write it (--json, or starts' results.json), for the other tables. To
change a default, run the recipes and benchmarks again, put their JSON there and call this. A table stands in Markdown
between <!-- table: NAME --> and <!-- end -->.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks import (
    defaults,
    frozen,
    gain,
    gain_fidelity,
    gpu,
    health,
    mixing,
    natural_causes,
    natural_report,
    network,
    pairs,
    reuse,
    semi_supervised,
    soft_gain,
    startup,
    validation_size,
    worst_class,
)
from selmix_hf.hub.card import CardFacts, card_of
from selmix_hf.reports.plots import save_record_plots
from selmix_hf.reports.registry import metric_title
from selmix_hf.reports.tables import INTERVAL, interval_cell, markdown_table, mean_and_sd, seeds_table
from selmix_hf.studies.analysis.report import auto_against_fixed, save_study_plots, study_report
from selmix_hf.studies.compare.report import front_lines, plot_front, summary
from selmix_hf.studies.record_card import released_run, render_record
from selmix_hf.studies.results import Results

ROOT = Path(__file__).parents[1]
CARDS, RECORDED = ROOT / "model_cards", ROOT / "benchmarks" / "recorded"
IMAGES = ROOT / "docs" / "images"
DOCS = (
    "analysis",
    "defaults",
    "gain_fidelity",
    "health",
    "many_classes",
    "method",
    "performance",
    "results",
    "semi_supervised",
    "validation_size",
)
PAGES = ("README.md", "recipes/README.md", *(f"docs/{name}.md" for name in DOCS))
CIFAR10_LT = {  # row -> card
    "min recall, `ten_classes.yaml`": "cifar10-lt-min-recall-ten-classes",
    "min recall, `cifar10_lt_min_recall.yaml`": "cifar10-lt-min-recall",
    "mean recall, `cifar10_lt_mean_recall.yaml`": "cifar10-lt-mean-recall",
    "H-mean, `cifar10_lt_h_mean.yaml`": "cifar10-lt-h-mean",
    "mean recall s.t. coverage ≥ .95/K, `cifar10_lt_coverage.yaml`": "cifar10-lt-coverage",
    "min recall, all weights, `cifar10_lt_whole_network.yaml`": "cifar10-lt-min-recall-whole-network",
}
START_TITLES = {
    "cifar10_lite0": "CIFAR-10-LT, lite0",
    "cifar10_scratch": "CIFAR-10-LT, small network",
    "digits_scratch": "digits, small network",
}
TARGETS = {  # card -> what was hoped for before the runs
    "cifar10-lt-min-recall": {"min_recall": 0.690, "mean_recall": 0.745},
    "cifar10-lt-mean-recall": {"mean_recall": 0.760},
    "cifar10-lt-h-mean": {"h_mean": 0.750},
    "cifar10-lt-coverage": {"smallest_coverage": 0.95, "mean_recall": 0.750},
    "cifar10-lt-min-recall-whole-network": {"min_recall": 0.700, "mean_recall": 0.760},
}
COLUMNS = ("mean_recall", "min_recall", "h_mean", "smallest_coverage")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def short(text: str) -> str:
    """0.660 -> .660"""
    return re.sub(r"\b0\.", ".", text)


def cifar10_lt_table() -> str:
    def of_worst(reports: list[dict[str, Any]]) -> str:
        return short(interval_cell(reports, "min_recall"))

    rows: list[list[str]] = []
    for title, name in CIFAR10_LT.items():
        record = read(CARDS / name / "results.json")
        if not rows:
            start = record["runs"][0]["test_before"]
            rows.append(["the start", *[short(f"{start[c]:.3f}") for c in COLUMNS], of_worst([start])])
        cells = []
        for column in COLUMNS:
            low, high = (f"{end:+.3f}".replace("-", "−") for end in record["change_and_interval"][column][1:])
            value = mean_and_sd([run["test_after"][column] for run in record["runs"]])
            cells.append(short(f"{value} ({low} to {high})"))
        rows.append([title, *cells, of_worst([run["test_after"] for run in record["runs"]])])
    titles = [metric_title(column) for column in COLUMNS]
    return markdown_table(["objective", *titles, f"worst class, {INTERVAL}"], rows)


def targets_table() -> str:
    """Where the CIFAR-10-LT runs stand against what was hoped for: on validation, which steered them, and on test."""
    rows = []
    for title, name in CIFAR10_LT.items():
        runs = read(CARDS / name / "results.json")["runs"]
        for metric, target in TARGETS.get(name, {}).items():
            steering = mean_and_sd([run["validation_after"][f"eval_{metric}"] for run in runs])
            test = mean_and_sd([run["test_after"][metric] for run in runs])
            rows.append([title, metric_title(metric), short(f"{target:.3f}"), short(steering), short(test)])
    return markdown_table(["objective", "metric", "hoped for", "on validation", "on test"], rows)


def digits_table() -> str:
    return short(seeds_table(read(CARDS / "digits-min-recall" / "results.json")["test"]))


def timing_table(runs: str) -> str:
    """Seconds and shares of the recipes' runs at K = 1000; `timing` of each results.json lies in the record."""
    kept = {name: run["timing"] for name, run in read(RECORDED / "k1000.json").items() if name.startswith(runs)}
    parts = list(dict.fromkeys(part for timing in kept.values() for part in timing["seconds"]))
    rows = []
    for name, timing in kept.items():
        seconds, total = timing["seconds"], timing["total"]
        cells = [f"{seconds[p]:.1f} s ({seconds[p] / total:.1%})" if p in seconds else "" for p in parts]
        rows.append([name, *cells, f"{total:.0f} s", f"{timing['peak_memory_gb']:.1f} GiB"])
    return markdown_table(["run", *parts, "all", "peak memory"], rows)


def analyses() -> dict[str, Any]:
    """Records of recipes/analysis.py by the name of their start, such as "cifar10_lite0"."""
    paths = sorted(RECORDED.glob("analysis_*.json"))
    return {path.stem.removeprefix("analysis_"): read(path) for path in paths}


def comparisons() -> dict[str, Any]:
    """Records of recipes/compare.py by the name of their start, such as "r100_la", and of what is special about them:
    all weights ("r100_la_network"; "_cpu": again, on a CPU), rivals from the refitted head too ("_refit"), both."""
    paths = sorted(RECORDED.glob("compare_*.json"))
    return {path.stem.removeprefix("compare_"): read(path) for path in paths}


def table_of_starts(kind: str) -> str:
    """Comparisons of one kind, such as "network": a row for each start and method."""
    header: list[str] = []
    rows, known = [], comparisons()
    for start in ("r100_la", "r100_plain", "r10_la", "r10_plain", "r200_la", "r200_plain"):
        if (record := known.get(f"{start}_{kind}")) is not None:
            rho, loss = start.split("_")
            header, of_start = summary(record)
            title = f"ρ = {rho[1:]}, {'plain' if loss == 'plain' else 'logit-adjusted'}"
            rows += [[title, *row] for row in of_start]
    return markdown_table(["start", *header], rows)


def save_fronts() -> None:
    """The pictures that docs/results.md shows."""
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for start, record in comparisons().items():
        file = IMAGES / f"compare_{start}.png"
        if f"({IMAGES.name}/{file.name})" in page:
            plot_front(record, f"{record['dataset']}, test images").savefig(file, dpi=110)


def temperature_table() -> str:
    """ "auto" beside the best fixed s, from every start."""
    swept = {START_TITLES[name]: one["studies"] for name, one in analyses().items() if name in START_TITLES}
    return auto_against_fixed({title: studies["inverse_temperature"] for title, studies in swept.items()})


def tables() -> dict[str, Callable[[], str]]:
    """Every table by its name."""
    of_defaults = {
        path.stem: (lambda path=path: defaults.table(read(path))) for path in RECORDED.glob("defaults_*.json")
    }
    of_analyses = {
        f"analysis_{start}_{name}": (lambda name=name, study=study: short(study_report(name, study)))
        for start, record in analyses().items()
        for name, study in record["studies"].items()
    }
    of_comparisons = {
        f"compare_{start}": (
            lambda record=record: short(f"{markdown_table(*summary(record))}\n\n{front_lines(record)}")
        )
        for start, record in comparisons().items()
        if not start.endswith(("_network", "_refit", "_cpu"))
    }
    return {
        "cifar10_lt": cifar10_lt_table,
        "digits": digits_table,
        "targets": targets_table,
        "natural": lambda: natural_report.readme_table(read(RECORDED / "natural.json")),
        "natural_mean_recall": lambda: natural_report.summary_table(read(RECORDED / "natural.json"), "mean_recall"),
        "natural_worst_share": lambda: natural_report.summary_table(
            read(RECORDED / "natural.json"), "worst_share_recall"
        ),
        "natural_texts": lambda: natural_report.single_table(
            next(record for record in read(RECORDED / "natural.json") if record["start"] == "texts, plain")
        ),
        "natural_causes": lambda: natural_causes.table(read(RECORDED / "natural_causes.json")),
        "soft_gain": lambda: short(soft_gain.table(read(RECORDED / "soft_gain.json")["rows"])),
        "gain": lambda: gain.table(read(RECORDED / "gain.json")["rows"]),
        "gain_8142": lambda: gain.table(read(RECORDED / "gain_8142.json")["rows"]),
        "gain_fidelity": lambda: short(gain_fidelity.table(read(RECORDED / "gain_fidelity.json"))),
        "gain_fidelity_texts": lambda: short(
            gain_fidelity.confusion_table(
                {
                    title: read(RECORDED / f"gain_fidelity_texts_{of}.json")
                    for title, of in (("counts", "counts"), ("the soft matrix", "soft"))
                }
            )
        ),
        "health": lambda: short(health.table(read(RECORDED / "health.json"))),
        "pairs": lambda: pairs.table(read(RECORDED / "pairs.json")["rows"]),
        "gpu": lambda: gpu.table(read(RECORDED / "gpu.json")),
        "frozen": lambda: frozen.table(read(RECORDED / "frozen.json")),
        "network": lambda: network.table(read(RECORDED / "network.json")),
        "mixing": lambda: short(mixing.table(read(RECORDED / "mixing.json"))),
        "k1000_miniature": lambda: timing_table("miniature"),
        "k1000_sample": lambda: timing_table("sample"),
        "reuse": lambda: short(reuse.table(read(RECORDED / "reuse.json"))),
        "semi_supervised": lambda: short(semi_supervised.table(read(RECORDED / "semi_supervised.json"))),
        "pseudo_labels": lambda: short(semi_supervised.pseudo_label_table(read(RECORDED / "semi_supervised.json"))),
        "semi_supervised_all_weights": lambda: short(
            semi_supervised.all_weights_table(read(RECORDED / "semi_supervised.json"))
        ),
        "wrong_pseudo_labels": lambda: short(semi_supervised.wrong_table(read(RECORDED / "semi_supervised.json"))),
        "stage1_methods": lambda: short(semi_supervised.stage1_table(read(RECORDED / "semi_supervised.json"))),
        "interval_width": lambda: short(validation_size.width_table()),
        "samples_for_a_gain": lambda: short(validation_size.gain_table()),
        "chosen_model": lambda: short(validation_size.selection_table()),
        "optimism": lambda: short(validation_size.optimism_table(validation_size.recorded_runs())),
        "startup": lambda: startup.table(read(RECORDED / "startup.json")),
        "worst_class": lambda: short(worst_class.table(read(RECORDED / "worst_class.json"))),
        "compare_all_weights": lambda: short(table_of_starts("network")),
        "compare_refit": lambda: short(table_of_starts("refit")),
        "compare_all_weights_refit": lambda: short(table_of_starts("network_refit")),
        "temperature": lambda: short(temperature_table()),
        **of_defaults,
        **of_analyses,
        **of_comparisons,
    }


def with_tables(text: str, known: dict[str, Callable[[], str]]) -> str:
    """The page with each of its tables made again."""

    def again(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n\n{known[match[1]]()}\n\n<!-- end -->"

    return re.sub(r"<!-- table: (\S+) -->.*?<!-- end -->", again, text, flags=re.DOTALL)


def template() -> str:
    """What `selmix_hf.hub.card` makes a card of, each place named."""
    facts = CardFacts(
        name="{name}",
        base="{base model}",
        base_id=None,
        task="image-classification",
        objective="{objective}",
        settings={"constraints": {"{constraint}": 0.95}, "freeze_backbone": True, "{option}": "{value}"},
        class_names=["{largest class}", "{smallest class}"],
        train_counts=[1000, 10],
        set_name="test",
        measured=None,
        results="On {the set that the numbers come from}.\n\n{metrics and recall of each class, before and after, and "
        "95% intervals}",
        plots=["recall_per_class.png", "objective.png", "gain_matrix.png", "pair_distribution.png"],
        digest="{digest of split.json}",
        command="{the command that made the model}",
        versions={"selmix_hf": "{version}", "torch": "{version}"},
        hardware="{processes and processor}",
        dataset_ids=["{owner}/{dataset}"],
    )
    return str(card_of(facts))


def regenerate() -> dict[Path, str]:
    """Path -> text of every page and card."""
    known = tables()
    texts = {ROOT / page: with_tables((ROOT / page).read_text(encoding="utf-8"), known) for page in PAGES}
    for path in sorted(CARDS.glob("*/results.json")):
        plots = sorted(plot.name for plot in (path.parent / "plots").glob("*.png"))
        texts[path.parent / "README.md"] = str(render_record(read(path), plots))
    texts[CARDS / "template.md"] = template()
    return texts


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where something would change")
    check = parser.parse_args(argv).check
    if not check:
        for path in CARDS.glob("*/results.json"):
            record = read(path)
            save_record_plots(record, path.parent / "plots", released_run(Results.from_dict(record)))
        semi_supervised.save_plots(read(RECORDED / "semi_supervised.json"))
        page = (ROOT / "docs" / "analysis.md").read_text(encoding="utf-8")
        for start, record in analyses().items():
            files = save_study_plots(record, IMAGES, f"analysis_{start}_")
            for file in chain.from_iterable(files.values()):
                if f"({IMAGES.name}/{file})" not in page:  # not shown
                    (IMAGES / file).unlink()
        natural_report.save_plot(read(RECORDED / "natural.json"), IMAGES / "natural.png")
        gain_fidelity.save_plots(read(RECORDED / "gain_fidelity.json"))
        save_fronts()
    texts = regenerate()
    stale = [path for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if check:
        if stale:
            raise SystemExit(f"not as their records say: {', '.join(str(p.relative_to(ROOT)) for p in stale)}")
        return
    for path in stale:
        path.write_text(texts[path], encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
