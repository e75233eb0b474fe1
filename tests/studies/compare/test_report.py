"""The report of a comparison on hand-made records."""

from selmix_hf.studies.compare.methods import SELMIX
from selmix_hf.studies.compare.report import dominated, front_lines, plot_front, table


def made_up(**methods):
    """A record of one objective from (mean, min) of each method."""
    results = {}
    for name, (mean, worst) in methods.items():
        report = {"psi": worst, "mean_recall": mean, "min_recall": worst, "h_mean": mean, "smallest_coverage": 0.5}
        results[name] = {"setting": {}, "runs": [report], "seconds": 1.0, "peak_memory_gb": {"process": 0.5}}
        results[name]["selmix_minus"] = None if name == SELMIX else {"min_recall": (0.01, -0.02, 0.03)}
    return {"objectives": {"min_recall": results}}


def test_a_point_is_dominated_by_one_that_is_nowhere_below_it():
    points = {"a": (0.7, 0.5), "b": (0.7, 0.6), "c": (0.8, 0.4), "d": (0.8, 0.4), "e": (0.6, 0.6)}
    assert dominated(points) == {"a", "e"}


def test_the_report_says_who_wins():
    ahead = made_up(rival=(0.8, 0.5), SelMix=(0.75, 0.6))
    assert front_lines(ahead) == (
        "- SelMix for worst-class recall: mean 0.750, worst 0.600; no rival has more of one without less of the other."
    )
    behind = made_up(rival=(0.8, 0.65), SelMix=(0.75, 0.6))
    assert front_lines(behind).endswith(
        "1 of 1 results of rivals has as much of both or more, such as rival for worst-class recall (0.800, 0.650)."
    )
    assert "no rival" in front_lines(made_up(rival=(0.75, 0.6), SelMix=(0.75, 0.6)))  # a tie
    assert "+0.010 | -0.020 to +0.030" in table(behind)
    shares = made_up(rival=(0.8, 0.5), SelMix=(0.75, 0.6))["objectives"]["min_recall"]
    for result in shares.values():
        result["runs"][0] |= {
            "worst_share_recall": 0.7,
            "worst_share_recall_low": 0.65,
            "worst_share_recall_high": 0.8,
        }
    record = {"objectives": {"worst_share_recall": shares}}
    assert "SelMix for mean recall of the worst share: mean 0.750, worst 0.700" in front_lines(record)
    assert "0.650 to 0.800" in table(record) and "worst-class recall" not in table(record)
    axes = plot_front(behind, "title").axes[0]
    assert axes.get_xlabel() == "mean recall" and axes.get_ylabel() == "worst-class recall"
