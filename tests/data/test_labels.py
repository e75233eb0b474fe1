"""Which rows of which class; how labels are read is tested with the splits in test_long_tail."""

import numpy as np
import pytest

from selmix_hf.data.labels import first_of_each


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([1, 2], [4, 3, 2]),  # in the order of the rows, one class after the other
        ([2, 1], [4, 1, 3]),
        ([0, 9], [3, 2]),  # as many as there are
        (np.array([1, 1, 5]), [4, 3]),  # no row of class 2
    ],
)
def test_the_first_rows_of_each_class(counts, expected):
    rows, labels = np.array([4, 3, 2, 1]), np.array([1, 0, 1, 1, 0])
    assert first_of_each(rows, labels, counts).tolist() == expected
