"""The images of `tiny`, some of whose files cannot be decoded, and datasets that hold images as others store them."""

import io
from pathlib import Path

import numpy as np
import tiny
from datasets import Dataset, Features, Image
from PIL import Image as PILImage


def jpeg(width: int = 32, height: int = 32) -> bytes:
    """A harmless file, red on the left and blue on the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 200
    PILImage.fromarray(pixels).save(buffer := io.BytesIO(), "JPEG")
    return buffer.getvalue()


def images(
    bad: dict[int, bytes | None], counts=tiny.TRAIN_COUNTS, folder: Path | None = None, seed: int = 0
) -> Dataset:
    """Those of `tiny.images`, but for the bytes of some rows; with a folder, as files 0.png, 1.png, ..."""
    rows = tiny.images(counts, seed)
    stored = rows.cast_column("image", Image(decode=False))["image"][:]
    files = [bad.get(row, image["bytes"]) for row, image in enumerate(stored)]
    if folder is not None:
        for row, content in enumerate(files):
            (folder / f"{row}.png").write_bytes(content)
    encoded = [
        content and {"bytes": content if folder is None else None, "path": folder and str(folder / f"{row}.png")}
        for row, content in enumerate(files)
    ]
    columns = {"image": encoded, "label": rows["label"][:]}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "label": rows.features["label"]}))


def arrays(counts=tiny.TRAIN_COUNTS, seed: int = 0) -> np.ndarray:
    """The pixels of `tiny.images`, N x H x W x 3."""
    return np.stack([np.asarray(image) for image in tiny.images(counts, seed)["image"]])
