"""What a comparison has fitted is kept, whole, and only for what it was fitted to."""

import numpy as np
import pytest

from selmix_hf.studies.compare.fits_on_disk import Fit, Fits

FIT = Fit(np.array([2, 0, 1]), 1.5, {"process": 0.25}, "1 process x a machine")


def refused() -> Fit:
    raise AssertionError("fitted again")


def test_a_fit_is_made_once(tmp_path):
    made = []
    fits = Fits(tmp_path / "fits", {"start": "a"})
    key = {"method": "SelMix", "setting": {"scale": 0.1}, "seed": 0}
    for _ in range(2):
        assert fits(key, lambda: made.append(1) or FIT) is FIT
    assert made == [1] and fits.seconds_before == 0
    later = Fits(tmp_path / "fits", {"start": "a"})  # another run of the command
    again = later(key, refused)
    assert later.seconds_before == FIT.seconds
    assert again.predicted_N.tolist() == [2, 0, 1] and again.predicted_N.dtype == np.int64
    assert (again.seconds, again.memory_gb, again.hardware) == (FIT.seconds, FIT.memory_gb, FIT.hardware)


@pytest.mark.parametrize(
    ("identity", "key"),
    [({"start": "b"}, {"seed": 0}), ({"start": "a", "split": "s"}, {"seed": 0}), ({"start": "a"}, {})],
)
def test_what_depends_on_something_else_is_fitted(identity, key, tmp_path):
    Fits(tmp_path, {"start": "a"})({"seed": 0}, lambda: FIT)
    with pytest.raises(AssertionError, match="fitted again"):
        Fits(tmp_path, identity)(key, refused)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_fit_is_made_anew(damage, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("selmix_hf.studies.compare.fits_on_disk.logger.warning", said.append)
    Fits(tmp_path, {})({}, lambda: FIT)
    (path,) = tmp_path.iterdir()
    whole, at = path.read_bytes(), len(path.read_bytes()) // 4
    kept = {"cut": whole[:-9], "flipped": whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], "empty": b""}
    path.write_bytes(kept[damage])
    assert Fits(tmp_path, {})({}, lambda: FIT) is FIT
    assert len(said) == 1 and said[0].startswith(f"{path} is damaged (")
    assert path.read_bytes() == whole


def test_an_interrupted_fit_leaves_nothing(tmp_path, monkeypatch):
    fits = Fits(tmp_path, {})
    with pytest.raises(KeyboardInterrupt):
        fits({}, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(np, "savez_compressed", lambda file, **arrays: file.write(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fits({}, lambda: FIT)  # written in part
    monkeypatch.undo()
    made = []
    assert Fits(tmp_path, {})({}, lambda: made.append(1) or FIT) is FIT and made == [1]
