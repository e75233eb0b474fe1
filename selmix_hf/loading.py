"""Data and checkpoints by name, from a folder or from the Hub, with a sentence where that fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Image, load_dataset
from pyarrow.parquet import read_schema
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, TimmWrapperConfig
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor
from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperForImageClassification

from selmix_hf import wide_resnet  # checkpoints name its architectures
from selmix_hf.heads import find_head
from selmix_hf.labels import excerpt, set_class_names


def load_images(name: str, test: str = "test", more: Sequence[str] = ()) -> DatasetDict:
    """Splits "train" and "test", with one image column, of a Hub id or a folder with train.parquet and test.parquet.

    Args:
        name: a Hub id or a folder.
        test: the split that becomes "test": "validation" where the test labels are withheld, as in ImageNet-1k. In a
            folder, the name of its file.
        more: further splits that are needed, under their own names.

    Raises:
        FileNotFoundError: nothing that can be loaded.
        ValueError: a file that is not parquet, a split is missing, there is not one image column, or a row has no
            image.
    """
    folder = Path(name)
    parts = ["train", test, *more]
    files = {part: folder / f"{part}.parquet" for part in parts}
    wanted = f"{', '.join(f'{part}.parquet' for part in parts[:-1])} and {parts[-1]}.parquet"
    advice = f"Give a folder with {wanted}, or a Hub id such as uoft-cs/cifar10 with the network on."
    if folder.is_dir():
        missing = [file.name for file in files.values() if not file.is_file()]
        if missing:
            found = ", ".join(sorted(file.name for file in folder.glob("*.parquet"))) or "none"
            raise FileNotFoundError(
                f"the folder {name!r} must hold {wanted}, but lacks {' and '.join(missing)} "
                f"(parquet files in it: {found}). {advice}"
            )
        for file in files.values():
            try:
                read_schema(file)
            except Exception as error:  # of pyarrow, of the file system
                raise ValueError(f"{file} is no parquet file ({error}): download it again. {advice}") from error
        try:
            dataset = load_dataset("parquet", data_files={part: str(files[part]) for part in ("train", test)})
            for part in more:  # may have no labels
                dataset[part] = load_dataset("parquet", data_files={part: str(files[part])}, split=part)
        except Exception as error:  # of pyarrow, of datasets
            cause = " ".join(str(error.__cause__ or error).split())
            raise ValueError(
                f"train.parquet and {test}.parquet in {name!r} do not make one dataset ({cause:.300}). {advice}"
            ) from error
    else:
        try:
            dataset = load_dataset(name)
        except Exception as error:
            raise FileNotFoundError(
                f"{name!r} is no folder here ({Path.cwd()}) and could not be loaded from the Hub "
                f"({type(error).__name__}). {advice}"
            ) from error
    if not set(parts) <= set(dataset):
        needed = f"{', '.join(parts[:-1])} and {parts[-1]}"
        raise ValueError(f"the dataset {name!r} must have splits {needed}, found {', '.join(dataset)}.")
    columns = [column for column, kind in dataset["train"].features.items() if isinstance(kind, Image)]
    if len(columns) != 1:
        raise ValueError(
            f"the dataset {name!r} must have one image column, found {columns or 'none'} among "
            f"{', '.join(dataset['train'].column_names)}."
        )
    for part in parts:
        _require_images(dataset[part], f"the split {part} of the dataset {name!r}")
    return DatasetDict(train=dataset["train"], test=dataset[test], **{part: dataset[part] for part in more})


def _require_images(dataset: Dataset, name: str) -> None:
    """Whether they can be decoded is seen when they are; a row without any is found here, from the columns' null bits.

    Raises:
        ValueError: a row without an image.
    """
    for column in [column for column, kind in dataset.features.items() if isinstance(kind, Image)]:
        images = dataset.data.column(column)
        has_neither_N = pc.and_(*(pc.is_null(pc.struct_field(images, part)) for part in ("bytes", "path")))
        rows = np.flatnonzero(has_neither_N)
        if len(rows):
            raise ValueError(
                f"{name} has no image in row {rows[0]} of its column {column!r} ({len(rows)} such rows of "
                f"{len(dataset)}): leave them out of the data."
            )


def load_classifier(name: str, class_names: Sequence[str], image_size: int | None = None) -> tuple[Any, Any]:
    """An image classifier trained on the given classes, and its image processor.

    Args:
        name: a Hub id or a folder.
        class_names: K names, for the check and the message.
        image_size: side in pixels, in the place of the checkpoint's own; saved with the model.

    Raises:
        FileNotFoundError: nothing that can be loaded.
        ValueError: another number of classes, or weights that are missing.
    """
    model, info, processor = _load(name)
    if model.config.num_labels != len(class_names):
        raise ValueError(
            f"the checkpoint {name!r} tells {model.config.num_labels} classes apart, the data have "
            f"{excerpt(class_names)}. SelMix starts where training on these classes ended: "
            "train the checkpoint on them first, with selmix_hf.Stage1Trainer (--stage1_steps in the recipes)."
        )
    if info["missing_keys"]:
        raise ValueError(
            f"the checkpoint {name!r} lacks {len(info['missing_keys'])} weights, which would be random "
            f"({', '.join(sorted(info['missing_keys'])[:3])}). Was it trained as a classifier?"
        )
    unnamed = [f"LABEL_{k}" for k in range(model.config.num_labels)]
    if all(str(model.config.id2label.get(k, label)) == label for k, label in enumerate(unnamed)):
        set_class_names(model.config, class_names)
    return model, processor if image_size is None else _resized(model, processor, image_size)


def _load(name: str, **options: Any) -> tuple[Any, dict[str, Any], Any]:
    """Model, what was missing in its checkpoint, image processor."""
    try:
        model, info = AutoModelForImageClassification.from_pretrained(name, output_loading_info=True, **options)
        processor = AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise _not_found(name, error) from error
    return model, info, processor


def knows_classes(name: str, class_names: Sequence[str]) -> bool:
    """Whether a checkpoint is a classifier of the given classes, in whatever order.

    Raises:
        FileNotFoundError: nothing that can be loaded.
    """
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise _not_found(name, error) from error
    return sorted(map(str, (config.id2label or {}).values())) == sorted(class_names)


def load_for_classes(name: str, class_names: Sequence[str], image_size: int | None = None) -> tuple[Any, Any]:
    """A pretrained model with a head for the given classes, to be trained first, and its image processor.

    A head of another size, or none, gives way to one with random weights; a head of the right size stays.

    Args:
        name, class_names, image_size: as for `load_classifier`; the name of a `wide_resnet` gives one with random
            weights.

    Raises:
        FileNotFoundError: nothing that can be loaded.
        ValueError: weights of the backbone are missing.
    """
    if name in wide_resnet.default_cfgs:
        cfg: dict[str, Any] = dict(wide_resnet.default_cfgs[name])
        config: Any = TimmWrapperConfig
        model = TimmWrapperForImageClassification(
            config(architecture=name, pretrained_cfg=cfg, num_labels=len(class_names))
        )
        model.timm_model.init_weights()  # the wrapper's constructor draws all weights from N(0, 0.02^2)
        set_class_names(model.config, class_names)
        processor = TimmWrapperImageProcessor(pretrained_cfg=cfg, architecture=name)
        return model, processor if image_size is None else _resized(model, processor, image_size)
    try:
        config = AutoConfig.from_pretrained(name, num_labels=len(class_names))
    except (OSError, ValueError) as error:
        raise _not_found(name, error) from error
    set_class_names(config, class_names)
    if getattr(config, "model_args", None):  # a timm model saved with its number of classes
        config.model_args = {k: v for k, v in config.model_args.items() if k != "num_classes"}
    model, info, processor = _load(name, config=config, ignore_mismatched_sizes=True)
    blank = np.zeros((64, 64, 3), np.uint8)
    head = find_head(model, dict(processor(blank, return_tensors="pt")))
    missing = [key for key in sorted(info["missing_keys"]) if not key.startswith(tuple(head.names))]
    if missing:
        raise ValueError(
            f"the checkpoint {name!r} lacks {len(missing)} weights of the backbone, which would be random "
            f"({', '.join(missing[:3])}): give the id of a pretrained model."
        )
    return model, processor if image_size is None else _resized(model, processor, image_size)


def _not_found(name: str, error: Exception) -> FileNotFoundError:
    return FileNotFoundError(
        f"no image classifier with its image processor could be loaded from {name!r}, as a "
        f"folder in {Path.cwd()} or from the Hub ({str(error).splitlines()[0]}). Give a folder that "
        "save_pretrained wrote, or a Hub id with the network on."
    )


def _resized(model: Any, processor: Any, side: int) -> Any:
    """The processor for images of another size, which the saved model then asks for too."""
    if hasattr(model.config, "pretrained_cfg"):
        model.config.pretrained_cfg = {**model.config.pretrained_cfg, "input_size": [3, side, side]}
        return type(processor)(pretrained_cfg=model.config.pretrained_cfg, architecture=model.config.architecture)
    for name in ("size", "crop_size"):
        old = getattr(processor, name, None)
        if old:
            setattr(processor, name, dict.fromkeys(old, side))
    return processor
