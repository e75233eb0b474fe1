"""What a manifest says of the files beside it."""

import hashlib
import json

import pytest

from selmix_hf.training import manifest


@pytest.fixture
def folder(tmp_path):
    manifest.begin(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"abcd")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "state.json").write_text("{}")
    (tmp_path / "left.tmp").write_text("of a writer that was killed")
    manifest.finish(tmp_path)
    return tmp_path


def test_it_names_sizes_and_checksums(folder):
    assert json.loads((folder / "manifest.json").read_text())["files"] == {
        "inner/state.json": {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()},
        "weights.bin": {"size": 4, "sha256": hashlib.sha256(b"abcd").hexdigest()},
    }
    assert manifest.fault_of(folder) is None and not manifest.is_unfinished(folder)


def test_a_folder_that_is_being_written(tmp_path):
    manifest.begin(tmp_path / "new")
    assert manifest.is_unfinished(tmp_path / "new")
    assert manifest.fault_of(tmp_path / "new") == "it was not written to its end"


def test_a_folder_without_one(tmp_path):
    assert manifest.fault_of(tmp_path) is None and not manifest.is_unfinished(tmp_path)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "weights.bin is missing"),
        (b"abc", "weights.bin is damaged: 3 bytes of 4"),
        (b"abce", "weights.bin is damaged: its sha256 is not that in manifest.json"),
    ],
)
def test_a_file_that_is_not_as_it_was(content, fault, folder):
    path = folder / "weights.bin"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert manifest.fault_of(folder) == fault
    assert manifest.fault_of(folder, lambda name: name.endswith(".json")) is None


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_a_manifest_that_was_cut(cut, folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:cut])
    assert manifest.fault_of(folder) == "manifest.json is damaged"


def test_a_flipped_bit_of_a_manifest_is_a_fault(folder):
    path = folder / "manifest.json"
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bit in (1, 2, 128):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
            found = manifest.fault_of(folder)
            assert found is not None or path.read_bytes().split() == whole.split()
