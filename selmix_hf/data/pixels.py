"""One reading of whatever a sample holds as its image: a PIL image of any mode, an array, the bytes of a file.

Shapes: C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from transformers.utils import logging

logger = logging.get_logger(__name__)

_CHANNELS = (1, 3, 4)
CUSTOMARY = ("image", "images", "img", "picture", "pixels")  # columns whose numbers are pixels, whatever their type
_FIELDS = {"bytes", "path"}  # of an image that is not decoded
_FILES = "Paths become images by cast_column(column, datasets.Image())."


def picture(value: Any, mode: str = "RGB") -> Image.Image:
    """An 8-bit image of what a sample holds; what changes values is said once in the log.

    Args:
        value: a PIL image; an array, a tensor or nested lists, H x W, H x W x C or C x H x W with C of 1, 3 or 4
            (where both ends fit, C is the first of a tensor and the last of anything else); or a mapping with the
            "bytes" or the "path" of a file. 16-bit values (the modes I;16 and I, uint16) are scaled from 0..65535,
            floats (the mode F) from 0..1, and other integers must lie in 0..255.
        mode: "RGB", or "L" for one channel.

    Raises:
        ValueError: no image, or values whose range is not known.
        OSError, SyntaxError, PIL.Image.DecompressionBombError: a file that cannot be decoded.
    """
    if is_encoded(value):
        value = decoded(value)
    image: Image.Image = value if isinstance(value, Image.Image) else Image.fromarray(_bytes_of(*_array(value)))
    image.load()  # a file that was opened alone is read here
    if image.mode == "F":
        image = Image.fromarray(_bytes_of(np.asarray(image), "an image of mode F"))
    elif image.mode == "I":
        image = Image.fromarray(_wide_bytes(np.asarray(image)))
    elif image.mode.startswith("I;16"):
        image = Image.fromarray(_scaled(np.asarray(image), 65535, "16-bit images"))
    return image if image.mode == mode else image.convert(mode)


def is_encoded(value: Any) -> bool:
    """Whether a value is the file of an image, as `datasets.Image(decode=False)` gives it."""
    return isinstance(value, Mapping) and set(value) == _FIELDS


def decoded(encoded: Mapping[str, Any]) -> Image.Image:
    """The image of a file, as `datasets.Image` decodes it. A JPEG file beyond Pillow's limit is decoded at a half, a
    quarter or an eighth of its sides, which is said: it takes no more memory than one within the limit.

    Args:
        encoded: "bytes", or else a "path".

    Raises:
        OSError, SyntaxError, PIL.Image.DecompressionBombError: it cannot be decoded.
    """
    try:
        image: Image.Image = datasets.Image().decode_example(dict(encoded))
    except Image.DecompressionBombError:
        reduced = _reduced(encoded)
        if reduced is None:
            raise
        image = reduced
    return image


def _reduced(encoded: Mapping[str, Any]) -> Image.Image | None:
    """None where the format, or the size at an eighth, does not allow it."""
    try:
        image = JpegImageFile(encoded["path"] if encoded["bytes"] is None else BytesIO(encoded["bytes"]))
    except (OSError, SyntaxError):  # another format
        return None
    (width, height), limit = image.size, Image.MAX_IMAGE_PIXELS or 0
    by = next((by for by in (2, 4, 8) if -(-width // by) * -(-height // by) <= limit), None)
    if by is None:
        return None
    image.draft(None, (width // by, height // by))
    logger.warning_once(
        f"JPEG images of more pixels than Pillow's limit are decoded at a part of their size, such as {width} x "
        f"{height} at {image.width} x {image.height}."
    )
    return ImageOps.exif_transpose(image)


def _array(value: Any) -> tuple[NDArray[Any], str]:
    """H x W or H x W x C, and what it is called."""
    is_tensor = isinstance(value, torch.Tensor)
    value = value.float() if is_tensor and value.dtype == torch.bfloat16 else value  # which numpy does not have
    array = value.numpy(force=True) if is_tensor else np.asarray(value)
    name = f"an image as {type(value).__name__} {list(array.shape)} of {array.dtype}"
    if not _fits(array.shape) or array.dtype.kind not in "biuf":
        raise ValueError(
            f"expected an image, or numbers H x W, H x W x C or C x H x W with C of 1, 3 or 4, found "
            f"{' '.join(repr(value).split()):.80} ({name}). {_FILES}"
        )
    if array.ndim == 3:
        if array.shape[0] in _CHANNELS and (is_tensor or array.shape[2] not in _CHANNELS):
            array = np.moveaxis(array, 0, 2)
        array = array[:, :, 0] if array.shape[2] == 1 else array
    return array, name


def _fits(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and (shape[0] in _CHANNELS or shape[2] in _CHANNELS))


def _bytes_of(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Values as 0..255."""
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return _scaled(array, 65535, "arrays of uint16")
    least, most = array.min(), array.max()
    if array.dtype.kind == "f":
        if not (least >= 0 and most <= 1):  # nor NaN
            raise ValueError(
                f"{name} must hold values in 0..1, found {least:.6g} to {most:.6g}: divide by the largest value that "
                "there can be, the same for all images, such as 255 or 65535."
            )
        return _scaled(array, 1, "images of floats")
    if least < 0 or most > 255:
        raise ValueError(
            f"{name} must hold values in 0..255, found {least} to {most}, whose range is not known: give uint16 for "
            "16-bit values, or floats in 0..1."
        )
    return array.astype(np.uint8)


def _wide_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Of the mode I, in which Pillow opens some 16-bit files and which it makes of arrays of int32."""
    least, most = array.min(), array.max()
    if least < 0 or most > 65535 or 0 < most < 256:
        raise ValueError(
            f"an image of mode I must hold 16-bit values, found {least} to {most}, whose range is not known: make "
            "8-bit values an array of uint8 and 16-bit ones an array of uint16 first, or all floats in 0..1."
        )
    return _scaled(array, 65535, "images of mode I")


def _scaled(array: NDArray[Any], top: int, kind: str) -> NDArray[np.uint8]:
    logger.warning_once(f"{kind} are read as values in 0..{top}, which become 0..255.")
    return (array.astype(np.float64) * (255 / top)).round().astype(np.uint8)


def holds_image(value: Any, customary: bool = False) -> bool:
    """Whether a value in an item of a torch dataset is an image: a PIL image, pixels of 8 or 16 bits, numbers H x W x
    C, and in a customary place also any H x W. Other floats are inputs of the model that somebody made."""
    if isinstance(value, Image.Image) or is_encoded(value):
        return True
    if not isinstance(value, np.ndarray | torch.Tensor) or not _fits(tuple(value.shape)):
        return False
    whole = str(value.dtype).removeprefix("torch.") in ("uint8", "uint16")
    return whole or (customary if value.ndim == 2 else value.shape[0] not in _CHANNELS)


def feature_holds_images(name: str, feature: Any) -> bool:
    """Whether a column of a `datasets.Dataset` without an `Image` column has images: files that are not decoded,
    pixels of 8 or 16 bits, or any numbers in two or three dimensions under a customary name."""
    if isinstance(feature, Mapping):
        return set(feature) == _FIELDS
    num_dimensions = len(getattr(feature, "shape", ()))  # of Array2D and its kin
    while hasattr(feature, "feature"):
        feature, num_dimensions = feature.feature, num_dimensions + 1
    dtype = str(getattr(feature, "dtype", ""))
    whole = dtype in ("uint8", "uint16") and name != "pixel_values"
    numbers = dtype.startswith(("int", "uint", "float")) and name in CUSTOMARY
    return num_dimensions in (2, 3) and (whole or numbers)


def num_channels(model: Any) -> int:
    """Channels of the images that a model takes, as its config has them; 3 where it says nothing."""
    config = getattr(model, "config", None)
    of_timm = (getattr(config, "model_args", None) or {}).get("in_chans")
    return int(of_timm or getattr(config, "num_channels", None) or 3)
