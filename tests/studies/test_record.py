"""What records hold: no folders of a machine, six digits, a run's own numbers."""

import numpy as np

from selmix_hf.studies.record import command_of, rounded, without_folders


def test_of_a_path_the_last_part_stays(tmp_path):
    (tmp_path / "there").mkdir()
    assert without_folders(str(tmp_path / "there")) == "there"
    assert without_folders("/somewhere/else") == "else"
    for value in ("me/model", "", 3, None):  # an id of the Hub; no path at all
        assert without_folders(value) == value


def test_a_command_names_no_folder_and_no_token():
    options = ["--dataset", "/data/mine", "--output_dir=/home/me/out", "--hub_token", "secret", "--seed", "1"]
    assert command_of("own.py", options) == "own.py --dataset mine --output_dir=out --hub_token ... --seed 1"


def test_six_digits_but_matrices_as_they_are():
    value = {"a": (np.float64(1 / 3), np.int64(4)), "gain": [[1.23456789e-9]], 1: "text"}
    assert rounded(value) == {"a": [0.333333, 4], "gain": [[1.23456789e-9]], "1": "text"}
    assert type(rounded(value)["a"][1]) is int
