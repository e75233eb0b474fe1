"""The tables of how many samples a validation set needs, against the intervals and by hand."""

import numpy as np
from scipy.stats import binomtest

from benchmarks import validation_size
from selmix_hf import min_recall_lower_bound


def counts_of(hits, samples):
    """K x K counts with these hits; misses go to the next class."""
    return np.diag(hits) + np.roll(np.diag(np.subtract(samples, hits)), 1, 1)


def test_the_widths_of_the_docs():
    row = validation_size.width_table().splitlines()[-2].split("|")
    exact = binomtest(250, 500).proportion_ci(0.95 ** (1 / 10), method="exact")
    assert (row[1].strip(), row[3].strip()) == ("500", f"± {(exact.high - exact.low) / 2:.3f}")


def test_the_samples_for_a_gain_are_the_fewest():
    """From .65 to .75: the power of one class, by the binomial's tail at and just under the number."""
    needed = validation_size.samples_needed(0.1, 1)
    powers = []
    for samples in (needed - 1, needed):
        hits = [h for h in range(samples + 1) if binomtest(h, samples, 0.65, "greater").pvalue <= 0.05]
        powers.append(binomtest(hits[0], samples, 0.75, "greater").pvalue)
        bound = min_recall_lower_bound(counts_of([hits[0], samples], [samples, samples]))
        assert bound >= 0.65 > min_recall_lower_bound(counts_of([hits[0] - 1, samples], [samples, samples]))
    assert powers[0] < 0.8 <= powers[1]
    assert needed < validation_size.samples_needed(0.1, 10) < validation_size.samples_needed(0.05, 10)


def test_the_bound_over_candidates_in_the_docs_is_never_looser_than_hoeffdings():
    rows = [line.split("|")[1:-1] for line in validation_size.selection_table().splitlines()[2:]]
    assert all(float(row[-2].strip(" −")) < float(row[-1].strip(" −")) for row in rows)
    counts = counts_of([70, 99], [100, 100])
    assert f"− {0.7 - min_recall_lower_bound(counts, num_candidates=200):.3f}" == rows[2][3].strip()


def test_the_optimism_of_a_recorded_run_by_hand():
    numbers = [(0.5, 0.52, 0.7, 0.6), (0.5, 0.52, 0.6, 0.6)]
    runs = [
        {"validation_before": {"eval_min_recall": a}, "test_before": {"min_recall": b}}
        | {"validation_after": {"eval_min_recall": c}, "test_after": {"min_recall": d}}
        for a, b, c, d in numbers
    ]
    row = validation_size.optimism_table([{"name": "run", "runs": runs}]).splitlines()[-1]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells == ["run", "−0.020", "0.650 ± 0.071", "0.600", "0.050 ± 0.071"]
