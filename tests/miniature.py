"""Files that the recipes on a user's own checkpoint are tested with: a dataset of three classes, a tiny network."""

from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
from transformers.models.timm_wrapper.configuration_timm_wrapper import TimmWrapperConfig
from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperForImageClassification

from benchmarks.miniature_imagenet import write_checkpoint, write_images

NAMES = ["a", "b", "c"]
PLOTS = ("gain_matrix", "objective", "pair_distribution", "recall_per_class")  # of a run


def write_dataset_and_checkpoint(folder: Path) -> Path:
    """train.parquet with 60 and test.parquet with 20 images a class, and checkpoint/; returns the folder."""
    random = np.random.default_rng(0)
    write_images(folder / "images", 3, max_per_class=12, held_out_per_class=3, side=32)
    write_checkpoint(folder / "checkpoint", folder / "images", side=32)
    features = Features({"img": Image(), "label": ClassLabel(names=NAMES)})
    for part, size in (("train", 60), ("test", 20)):
        labels = np.repeat(np.arange(3), size)
        pixels = random.integers(0, 120, (3 * size, 32, 32, 3)) + labels[:, None, None, None] * 30
        rows = {"img": [PILImage.fromarray(p.astype(np.uint8)) for p in pixels], "label": labels}
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{part}.parquet")
    return folder


def options_for(folder: Path, out: Path, pairs: int) -> list[str]:
    """Of a run of four steps and two refreshes: 30 training images of the largest class, 3 of the smallest."""
    options = ["--model_name_or_path", str(folder / "checkpoint"), "--dataset", str(folder), "--use_cpu"]
    options += ["--imbalance_factor", "10", "--max_per_class", "30", "--validation_per_class", "20"]
    options += ["--per_device_train_batch_size", str(pairs), "--max_steps", "4", "--refresh_steps", "2"]
    return [*options, "--learning_rate", "0.01", "--head_start", "as_is", "--output_dir", str(out)]


def save_checkpoint(folder, names):
    """A tiny timm network for images of 32 pixels."""
    torch.manual_seed(0)
    pixels = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
    config = TimmWrapperConfig(
        architecture="test_byobnet",
        pretrained_cfg={**pixels, "crop_pct": 1.0},
        id2label=dict(enumerate(names)),
        label2id={name: k for k, name in enumerate(names)},
    )
    TimmWrapperForImageClassification(config).save_pretrained(folder)
    return str(folder)


def assert_usable(folder, side=32):
    """The model in a folder reloads, and tells the classes apart in a pipeline."""
    model = AutoModelForImageClassification.from_pretrained(folder)
    assert AutoImageProcessor.from_pretrained(folder).data_config["input_size"] == (3, side, side)
    answer = pipeline("image-classification", str(folder), device="cpu")(PILImage.new("RGB", (32, 32)), top_k=1)
    assert answer[0]["label"] in model.config.label2id
