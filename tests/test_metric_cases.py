"""The table of docs/metrics.md is what this package and three others say of six small cases."""

import re
from pathlib import Path

import pytest

metric_cases = pytest.importorskip("benchmarks.metric_cases", reason="needs torchmetrics and imbalanced-learn")
PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"


@pytest.fixture(scope="module")
def table():
    return metric_cases.table()


def test_the_table_of_the_docs_is_what_the_libraries_say(table):
    written = re.search(r"<!-- cases -->\n\n(.*?)\n\n<!-- end -->", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert written[1] == table


def test_this_package_says_what_scikit_learn_does(table):
    """Mean recall as balanced accuracy, macro-F1 and accuracy, whatever classes are absent."""
    rows = [[cell.strip(" `") for cell in line.split("|")[2:-1]] for line in table.splitlines()[2:]]
    by_library = {row[0]: row[1:] for row in rows}
    for own, other in (
        ("accuracy", "scikit-learn `accuracy_score"),
        ("mean_recall", "scikit-learn `balanced_accuracy_score"),
        ("macro_f1", 'scikit-learn `f1_score(average="macro")'),
    ):
        assert by_library[own] == by_library[other]
