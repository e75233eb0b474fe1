"""A long run does not grow."""

import pytest

from benchmarks import endurance


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        ["--classes", "300", "--features", "64", "--refreshes", "400"],
        ["--classes", "10", "--gain_samples", "30", "--refreshes", "100", "--refresh_steps", "50"],
    ],
    ids=["many refreshes", "many steps"],
)
def test_a_long_run_does_not_grow(setting):
    found = endurance.growth(endurance.watched(endurance.parsed(setting)))
    assert found["rss_mb"] < 50 and found["files"] == found["threads"] == 0
    assert found["cpu_ratio"] < 3  # one that grows with the refreshes so far has 6; wide: other work of the machine


def test_growth_is_that_from_the_second_tenth_to_the_last():
    seen = [
        {"refresh_s": 1.0 + n, "cpu_s": 2.0, "rss_mb": 5.0 * n, "files": 7.0, "threads": float(n // 10)}
        for n in range(40)
    ]
    wanted = {
        "rss_mb": 160.0,
        "files": 0.0,
        "threads": 3.0,
        "refresh_ratio": 38.5 / 6.5,
        "cpu_ratio": 1.0,
        "refresh_s": 38.5,
    }
    assert endurance.growth(seen) == pytest.approx(wanted)
