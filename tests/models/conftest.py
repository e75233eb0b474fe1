"""A base and a run with an adapter, each once for a file."""

import pytest
import tiny
from adapters import loaded_base


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    """A base with seven classes and its image processor: that of another task."""
    folder = tmp_path_factory.mktemp("base")
    tiny.model("vit", num_classes=7).save_pretrained(folder)
    tiny.processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(base_folder, tmp_path_factory):
    """A run of eight steps that ended with its last weights, saved to output_dir."""
    model = tiny.lora(base=loaded_base(base_folder))
    trainer = tiny.trainer(tmp_path_factory.mktemp("run") / "out", model, **tiny.BARE)
    trainer.train()
    trainer.save_model()
    return trainer
