"""Rows that the tests of labels, keys and splits share."""

import pytest
from animals import NAMES
from datasets import ClassLabel, Dataset, Features, Value


@pytest.fixture
def dataset() -> Dataset:
    """80 rows, 20 a class, in mixed order, with a unique string and a unique integer column."""
    labels = [row * 7 % 4 for row in range(80)]
    features = Features({"name": Value("string"), "number": Value("int32"), "label": ClassLabel(names=NAMES)})
    columns = {"name": [f"img_{row}" for row in range(80)], "number": [1000 - row for row in range(80)]}
    return Dataset.from_dict({**columns, "label": labels}, features=features)
