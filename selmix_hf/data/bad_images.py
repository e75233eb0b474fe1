"""Images that cannot be decoded: named where they are met, or left out before a run.

Shape suffix: N samples.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import PIL.Image
from datasets import Dataset, Image
from numpy.typing import ArrayLike, NDArray
from PIL.Image import DecompressionBombError
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Subset
from transformers.utils import logging

from selmix_hf.data.pixels import decoded, is_encoded
from selmix_hf.data.random_state import isolated_random_state

logger = logging.get_logger(__name__)

ON_BAD_IMAGE = ("raise", "skip")
_LISTED = 50  # rows in a warning


class BadImageError(ValueError):
    """An image cannot be decoded; the sentence says of which row, and in a trainer of which set."""


class Rows(TorchDataset[Any]):
    """Rows of a map-style dataset, in which an image that cannot be decoded is named; for a DataLoader.

    Args:
        dataset: a map-style dataset, indexed by whatever its sampler gives.
        rows: which of them; None: all.
    """

    def __init__(self, dataset: Any, rows: Sequence[int] | None = None) -> None:
        self.dataset, self.rows = dataset, rows

    def __len__(self) -> int:
        return len(self.dataset if self.rows is None else self.rows)

    def __getitem__(self, index: Any) -> Any:
        return read_one(self.dataset, index if self.rows is None else self.rows[index])

    def __getitems__(self, indices: Sequence[Any]) -> Sequence[Any]:
        return read(self.dataset, indices if self.rows is None else [self.rows[index] for index in indices])


def behind(dataset: Any) -> Any:
    """The dataset that a loader's `Rows` are of; any other as it is."""
    return dataset.dataset if isinstance(dataset, Rows) else dataset


def read(dataset: Any, rows: Sequence[int]) -> Sequence[Any]:
    """Samples, in one call where the dataset can.

    Raises:
        BadImageError: an image among them cannot be decoded.
    """
    if not hasattr(dataset, "__getitems__"):
        return [read_one(dataset, row) for row in rows]
    try:
        samples: Sequence[Any] = [
            _loaded(sample, row) for sample, row in zip(dataset.__getitems__(list(rows)), rows, strict=True)
        ]
    except BadImageError:
        raise
    except Exception:
        samples = [read_one(dataset, row) for row in rows]
        if not any(isinstance(sample, _Reduced) for sample in samples):
            raise  # no image is at fault
    return samples


def read_one(dataset: Any, row: int) -> Any:
    """As `read`, one sample by `dataset[row]`."""
    try:
        return _loaded(dataset[row], row)
    except BadImageError:
        raise
    except Exception as error:
        encoded = _encoded(dataset)
        if encoded is None:
            if not isinstance(dataset, Dataset) and _blames_a_file(error):
                raise BadImageError(_sentence(row, _path_of(dataset, row), error)) from error
            raise
        images = _decoded_row(encoded, row)
        if dataset.format["type"] is None and isinstance(error, DecompressionBombError):
            rest = dataset.select_columns([name for name in dataset.format["columns"] if name not in images])
            return _Reduced({**(rest[row] if rest.column_names else {}), **images})
        if isinstance(error, DecompressionBombError):  # its transform cannot be given another image
            raise BadImageError(_sentence(row, None, error)) from error
        raise


def _loaded(sample: Any, row: int) -> Any:
    """A sample whose images, such as those of `PIL.Image.open`, are decoded here, where the row is known."""
    values = sample.values() if isinstance(sample, Mapping) else sample if isinstance(sample, tuple | list) else ()
    for image in values:
        if isinstance(image, PIL.Image.Image):
            try:
                image.load()
            except Exception as error:
                if not _blames_a_file(error):
                    raise
                raise BadImageError(_sentence(row, getattr(image, "filename", None), error)) from error
    return sample


class _Reduced(dict[str, Any]):
    """A row whose image was decoded at a part of its size."""


def _decoded_row(encoded: Dataset, row: int) -> dict[str, Any]:
    images = {}
    for name, value in encoded[row].items():
        path = None if value is None else value["path"]
        try:
            if value is None:
                raise ValueError("there is none")
            images[name] = decoded(value)
        except Exception as error:
            if _of_the_machine(error):
                raise
            raise BadImageError(_sentence(row, path, error)) from error
    return images


def _encoded(dataset: Any) -> Dataset | None:
    """The columns of images of a `datasets.Dataset`, not decoded; None where there are none."""
    if not isinstance(dataset, Dataset):
        return None
    names = [name for name, kind in dataset.features.items() if isinstance(kind, Image) or is_encoded(kind)]
    encoded = dataset.with_format(None).select_columns(names)
    for name in names:
        encoded = encoded.cast_column(name, Image(decode=False))
    return encoded if names else None


def _of_the_machine(error: Exception) -> bool:
    """Whether it says nothing of the file: no memory, a disk that fails, too many open files."""
    return isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno not in (None, errno.ENOENT, errno.EISDIR)
    )


def _blames_a_file(error: Exception) -> bool:
    return isinstance(error, OSError | SyntaxError | DecompressionBombError) and not _of_the_machine(error)


def _path_of(dataset: Any, row: int) -> str | None:
    """Of the file behind a row of a dataset of torchvision."""
    if hasattr(dataset, "dataset") and hasattr(dataset, "indices"):  # a Subset
        return _path_of(dataset.dataset, int(dataset.indices[row]))
    files = getattr(dataset, "samples", None)
    entry = files[row] if isinstance(files, Sequence) and row < len(files) else None
    return entry[0] if isinstance(entry, tuple) and isinstance(entry[0], str) else None


def _sentence(row: int, path: str | None, error: Exception) -> str:
    return (
        f"row {row} ({path or f'bytes of row {row}'}) has no image that can be decoded: {reason(error)}. Mend it or "
        "leave it out; on_bad_image='skip' leaves all such rows out, and selmix_hf.readable_images(dataset) does so "
        "with any dataset."
    )


def reason(error: Exception) -> str:
    """What Pillow says, without the addresses of its buffers."""
    return f"{type(error).__name__}, {re.sub(' ?<_io[^>]*>', '', ' '.join(str(error).split())):.300}"


# --- whole sets ------------------------------------------------------------------------------------------------------


def bad_images(dataset: Any) -> Iterator[tuple[int, str]]:
    """Rows whose images cannot be decoded, and a sentence on each; every image is read.

    Args:
        dataset: a map-style dataset; of a `datasets.Dataset` the columns of images are read and no transform runs.
    """
    encoded = _encoded(dataset)
    if encoded is None and isinstance(dataset, Dataset):
        return
    for row in range(len(dataset)):
        try:
            with isolated_random_state(0):
                read_one(dataset, row) if encoded is None else _decoded_row(encoded, row)
        except BadImageError as error:
            yield row, str(error)


def readable_images(dataset: Any, name: str = "the dataset") -> tuple[Any, NDArray[np.int64]]:
    """A dataset without the rows whose images cannot be decoded, and the numbers of the rows that are left, to keep
    the same of what is parallel to it. All images are read; a warning counts and lists the rows left out.

    Args:
        dataset: a map-style dataset; where nothing is left out it is returned itself.
        name: of the dataset, for the warning.

    Raises:
        ValueError: no row is left.
    """
    bad = dict(bad_images(dataset))
    rows_N = np.setdiff1d(np.arange(len(dataset)), list(bad))
    if not bad:
        return dataset, rows_N
    listed = ", ".join(sentence.partition(" has no image")[0] for sentence in list(bad.values())[:_LISTED])
    more = f" and {len(bad) - _LISTED} more" if len(bad) > _LISTED else ""
    counted = f"{name}: {len(bad)} of {len(dataset)} images cannot be decoded"
    if not len(rows_N):
        raise ValueError(f"{counted}: {listed}{more}.")
    logger.warning(f"{counted} and are left out: {listed}{more}.")
    if isinstance(dataset, Dataset):
        return dataset.select(rows_N), rows_N
    subset = Subset(dataset, rows_N.tolist())
    if hasattr(dataset, "classes"):  # as torchvision has the names
        subset.classes = dataset.classes  # type: ignore[attr-defined]
    return subset, rows_N


def kept_images(
    on_bad_image: str, name: str, dataset: Any, parallel: ArrayLike | None = None
) -> tuple[Any, ArrayLike | None]:
    """A set of a run and what is parallel to it: as they are, or with "skip" by `readable_images`.

    Raises:
        ValueError: another word than "raise" or "skip"; no row is left.
    """
    if on_bad_image not in ON_BAD_IMAGE:
        raise ValueError(f"on_bad_image must be one of {', '.join(ON_BAD_IMAGE)}, found {on_bad_image!r}.")
    if on_bad_image == "raise" or dataset is None:
        return dataset, parallel
    kept, rows_N = readable_images(dataset, name)
    fits = parallel is not None and len(np.asarray(parallel)) == len(dataset)  # else an error is to come
    return kept, np.asarray(parallel)[rows_N] if fits else parallel


@contextmanager
def naming_sets(sets: Mapping[str, Any]) -> Iterator[None]:
    """Inside, a `BadImageError`, also one of a worker process, says which of the sets it is of.

    Args:
        sets: by name; None for one that is not there.
    """
    try:
        yield
    except BadImageError as error:
        sentence = str(error).rpartition("BadImageError: ")[2].strip()
        found = re.match(r"row (\d+) ", sentence)
        if found is None and not sentence.startswith("an image "):  # its set is named already
            raise
        for name, dataset in sets.items():
            if dataset is None:
                continue
            bad = _sentence_on(dataset, int(found[1])) if found else next(bad_images(dataset), (0, None))[1]
            if bad is not None:
                raise BadImageError(f"{name}: {bad}") from error
        raise


def _sentence_on(dataset: Any, row: int) -> str | None:
    try:
        if row < len(dataset):
            with isolated_random_state(0):
                read_one(dataset, row)
    except BadImageError as error:
        return str(error)
    return None
