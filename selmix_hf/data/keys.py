"""What a stored split knows samples by: their rows, or the values of a column, of images their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Image, Value

from selmix_hf.data.labels import is_integer, require_column
from selmix_hf.data.pixels import is_encoded, picture


def sample_keys(dataset: Dataset, key_column: str | None) -> Sequence[int | str]:
    """The key of every row: see `make_long_tailed`."""
    if key_column is None:
        return range(len(dataset))
    require_column(dataset, key_column)
    feature = dataset.features[key_column]
    plain = dataset.with_format(None).select_columns([key_column])
    if isinstance(feature, Image):
        keys: list[int | str] = list(image_digests(plain.cast_column(key_column, Image(decode=False)), key_column))
    elif is_integer(feature) or (isinstance(feature, Value) and feature.dtype in ("string", "large_string")):
        keys = plain[key_column][:]
    else:
        raise ValueError(f"keys must be strings, integers or images; column {key_column!r} holds {feature}")
    first: dict[int | str, int] = {}
    for row, key in enumerate(keys):
        if key is None:
            raise ValueError(f"row {row} has no key in column {key_column!r}")
        if first.setdefault(key, row) != row:
            num_twice = len(keys) - len(set(keys))
            raise ValueError(
                f"{num_twice} rows repeat a key of column {key_column!r}: {key!r} is in rows {first[key]} and {row}; "
                "use a column without duplicates, or key_column=None for row numbers"
            )
    return keys


def image_digests(dataset: Dataset, column: str) -> Iterator[str]:
    """sha256 of the encoded bytes of each image, in a column that does not decode them or has pixels."""
    for batch in dataset.iter(batch_size=256):
        for image in batch[column]:
            if image is None:
                raise ValueError(f"an image is missing in column {column!r}: it cannot serve as key")
            yield hashlib.sha256(_content(image)).hexdigest()


def _content(image: Any) -> bytes:
    if not is_encoded(image):
        return picture(image).tobytes()
    return bytes(image["bytes"]) if image["bytes"] is not None else Path(image["path"]).read_bytes()
