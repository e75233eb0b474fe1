"""The notebook runs from the first to the last cell, unchanged, on a user's folder of images."""

import os
from pathlib import Path

import nbformat
import numpy as np
import pytest
from fake_hub import TOKEN
from miniature import PLOTS, assert_usable, save_checkpoint
from nbclient import NotebookClient
from PIL import Image
from transformers import AutoModelForImageClassification

from selmix_hf import LongTailedSplit

NOTEBOOK = Path(__file__).parents[1] / "recipes" / "notebooks" / "quickstart.ipynb"
COUNTS = {"cat": 20, "dog": 10, "train": 6}  # a class may have the name of a split


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for k, (name, count) in enumerate(COUNTS.items()):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(0, 60, (32, 32, 3)) + 60 * k
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def execute(folder, tmp_path, monkeypatch):
    """A function that runs the notebook with these settings; its text output, its outputs and the output folder."""

    def run(classes, **settings):
        out = tmp_path / "out"
        own = {"CHECKPOINT": save_checkpoint(tmp_path / "checkpoint", classes), "FOLDER": folder, "OUTPUT": out}
        for name, value in {**own, "STAGE1_STEPS": 4, "STEPS": 20, **settings}.items():
            monkeypatch.setenv(f"SELMIX_NOTEBOOK_{name}", str(value))
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
            monkeypatch.setenv(name, str(tmp_path / "jupyter"))
        package = str(NOTEBOOK.parents[2])
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])]))
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        return "".join(output.get("text", "") for output in outputs), outputs, out

    return run


def test_from_images_to_the_hub(execute, hub, monkeypatch):
    """A checkpoint of other classes: stage 1, SelMix, table, plots, card and push."""
    for name, value in {"ENDPOINT": hub.url, "TOKEN": TOKEN, "HUB_OFFLINE": "0", "HUB_DISABLE_XET": "1"}.items():
        monkeypatch.setenv(f"HF_{name}", value)
    text, outputs, out = execute(["a", "b"], REPO="me/pets", OBJECTIVE="h_mean")
    counts = [line.split() for line in text.splitlines() if line.split()[:1] in (["cat"], ["dog"], ["train"])]
    assert counts == [["cat", "12"], ["dog", "6"], ["train", "4"]]
    assert "no stage 1" not in text and f"{hub.url}/me/pets/commit/" in text
    data = [output["data"] for output in outputs if "data" in output]
    (table,) = [d["text/markdown"] for d in data if "text/markdown" in d]
    assert "| worst-class recall" in table and "recall of train" in table and "| before" in table.replace("  ", "")
    assert sum("image/png" in d for d in data) == len(PLOTS)
    assert all((out / "plots" / f"{name}.png").stat().st_size > 5000 for name in PLOTS)
    assert_usable(out)
    assert AutoModelForImageClassification.from_pretrained(out).config.id2label == dict(enumerate(COUNTS))
    card = (out / "README.md").read_text()
    assert "test images, which took no part" in card and "`h_mean`" in card
    assert f"split: digest `{LongTailedSplit.load(out / 'split.json').digest}`" in card
    plots = {f"plots/{name}.png" for name in PLOTS}
    assert {"config.json", "model.safetensors", "README.md", *plots} <= set(hub.files("me/pets"))
    assert not [name for name in hub.files("me/pets") if name.endswith((".bin", ".pt", ".pth")) or "stage1" in name]


@pytest.mark.slow
def test_without_a_token_and_with_a_checkpoint_of_these_classes(execute, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    text, _, out = execute(list(COUNTS), REPO="me/pets")
    assert "The checkpoint knows these classes: no stage 1." in text
    assert "No push, since there is no token: run `hf auth login`" in text
    assert_usable(out)


def test_it_is_saved_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    for name in ("FOLDER", "CHECKPOINT", "OUTPUT", "OBJECTIVE", "REPO"):
        assert f"\n{name} = os.environ" in code[0].source
