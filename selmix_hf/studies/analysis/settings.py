"""The studies, and the settings that each tries: one option at a time, everything else at the run's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from selmix_hf.mixing.registry import MIXING
from selmix_hf.studies.analysis.measured_runs import MEASURED, MeasuredRuns, Setting

IMBALANCES = (10, 50, 100, 200, 500)
MILDEST = IMBALANCES[0]
OF_PIXELS = ("mixing",)  # studies of images alone
_HISTORY = ("steps", "psi")
Settings = Callable[[MeasuredRuns, str], Iterator[Setting]]  # of an objective, the run's own among them


def _options(name: str, values: Sequence[Any]) -> Settings:
    def settings(start: MeasuredRuns, objective: str) -> Iterator[Setting]:
        for value in values:
            number = float(value) if isinstance(value, int | float) else None
            yield Setting(f"{value}", number, {name: value})

    return settings


def _temperatures(start: MeasuredRuns, objective: str) -> Iterator[Setting]:
    """ "auto", and five orders of magnitude around the s that it begins with."""
    seed = (start.arguments.seeds or [start.config.seed])[0]
    first = start.run(objective, seed, Setting("auto"))["inverse_temperature"]
    yield Setting("auto")
    yield Setting("auto, share 0.5", None, {"target_share": 0.5})
    for tenth in range(-25, 26, 5):
        s = float(f"{first * 10 ** (tenth / 10):.3g}")
        yield Setting(f"{s:g}", s, {"inverse_temperature": str(s)})


def _validation_sizes(start: MeasuredRuns, objective: str) -> Iterator[Setting]:
    steering_N, _ = start.halves(0)
    most = int(np.bincount(start.labels_N[steering_N]).max())
    for size in [size for size in (5, 10, 20, 50, 100, 200, 500) if size < most]:
        yield Setting(str(size), size, per_class=size)
    yield Setting(f"{most} (all)", most)


def _imbalances(start: MeasuredRuns, objective: str) -> Iterator[Setting]:
    """Those for which every class has samples enough; the training set as it is where there are none."""
    largest = int(start.data.train_counts.max())
    smallest_of = {f"{factor}": max(round(largest / factor), 1) for factor in IMBALANCES if largest / factor > 2}
    smallest_of[f"{largest / 2:g} (2 {start.data.samples})"] = 2
    drawn = False
    for label, smallest in smallest_of.items():
        if start.can_draw(smallest):
            drawn = True
            yield Setting(label, largest / smallest, smallest_class=smallest)
    if not drawn:
        yield Setting("as it is", largest / max(int(start.data.train_counts.min()), 1))


def studies(whole_network: dict[str, Any]) -> dict[str, Settings]:
    """The settings of all studies, by name.

    Args:
        whole_network: options of the runs that train all weights.
    """
    whole = {"freeze_backbone": False} | whole_network

    def backbones(start: MeasuredRuns, objective: str) -> Iterator[Setting]:
        yield Setting("frozen")
        yield Setting("trained", None, whole)

    def mixings(start: MeasuredRuns, objective: str) -> Iterator[Setting]:
        for name in MIXING:
            yield Setting(name, None, whole if name == "feature" else whole | {"mixing": name})

    return {
        "pair_sampling": _options("pair_sampling", ("selmix", "uniform", "greedy")),
        "inverse_temperature": _temperatures,
        "beta_min": _options("beta_min", (0, 0.2, 0.4, 0.6, 0.8, 1)),
        "refresh_steps": _options("refresh_steps", (5, 10, 20, 50, 100, 200, 500)),
        "validation_size": _validation_sizes,
        "imbalance": _imbalances,
        "backbone": backbones,
        "mixing": mixings,
    }


def run_study(
    start: MeasuredRuns,
    settings: Settings,
    objectives: Sequence[str],
    seeds: Sequence[int],
    say: Callable[[str], None],
    with_history: bool = False,
) -> dict[str, list[dict[str, Any]]]:
    """For each objective the rows of a study: label, value and one result of `MeasuredRuns.run` a seed, which has the
    history where it is asked for."""
    record: dict[str, list[dict[str, Any]]] = {}
    for objective in objectives:
        rows = record[objective] = []
        for setting in settings(start, objective):
            runs = [start.run(objective, seed, setting) for seed in seeds]
            if not with_history:
                runs = [{name: value for name, value in run.items() if name not in _HISTORY} for run in runs]
            rows.append({"label": setting.label, "value": setting.value, "runs": runs})
            numbers = ", ".join(
                f"{np.mean([run['after'][name] for run in runs]):.3f} {name}" for name in MEASURED[1:3]
            )
            say(f"  {objective}, {setting.label}: {numbers}")
    return record
