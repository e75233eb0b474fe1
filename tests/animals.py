"""Classes, images and transforms that the tests of labels, keys and splits share."""

import io

import PIL.Image
from datasets import ClassLabel, Dataset, Features, Value

NAMES = ["ant", "bee", "cat", "dog"]
OPTIONS = {"imbalance_factor": 8, "validation_per_class": 5}  # 20 images a class: 15 left, 15 7 3 1 for training


def labelled(values: list, names: list[str] | None = None) -> Dataset:
    feature = ClassLabel(names=names) if names else Value("int64")
    return Dataset.from_dict({"label": values}, features=Features({"label": feature}))


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (2, 2), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def forbidden(batch: dict) -> dict:
    raise AssertionError("the transform ran")
