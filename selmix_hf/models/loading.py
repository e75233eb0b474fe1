"""Data and checkpoints by name, from a folder or from the Hub, with a sentence where that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import DatasetDict, Features, load_dataset
from pyarrow.parquet import read_schema
from transformers import AutoConfig, TimmWrapperConfig
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor
from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperForImageClassification

from selmix_hf.data.classes import set_class_names
from selmix_hf.data.examples import image_columns
from selmix_hf.data.labels import excerpt
from selmix_hf.data.modality import Images, Modality
from selmix_hf.data.numbering import class_names_in, with_classes_of
from selmix_hf.models import wide_resnet
from selmix_hf.models.head_search import find_head
from selmix_hf.models.plain_files import NotPlainError, require_plain

_IMAGES = Images()


def load_images(name: str, test: str = "test", more: Sequence[str] = ()) -> DatasetDict:
    """Splits "train" and "test", with one image column, of a Hub id or a folder with train.parquet and test.parquet.

    Args:
        name: a Hub id or a folder.
        test: the split that becomes "test": "validation" where the test labels are withheld, as in ImageNet-1k. In a
            folder, the name of its file.
        more: further splits that are needed, under their own names.

    Raises:
        FileNotFoundError, ValueError: as `load_splits`; there is not one image column, or a row has no image.
    """
    dataset = load_splits(name, ["train", test], apart=more)
    columns = image_columns(dataset["train"])
    if len(columns) != 1:
        raise ValueError(
            f"the dataset {name!r} must have one image column, found {columns or 'none'} among "
            f"{', '.join(dataset['train'].column_names)}."
        )
    for part, split in dataset.items():
        _IMAGES.check(split, f"the split {part} of the dataset {name!r}")
    return DatasetDict(train=dataset["train"], test=dataset[test], **{part: dataset[part] for part in more})


def load_splits(
    name: str, needed: Sequence[str], optional: Sequence[str] = (), apart: Sequence[str] = ()
) -> DatasetDict:
    """Splits of a Hub id, or of a folder with a parquet file each, under their own names.

    Args:
        name: a Hub id or a folder.
        needed: splits of the same columns.
        optional: likewise, where they are there.
        apart: needed too; they may have other columns.

    Raises:
        FileNotFoundError: nothing that can be loaded.
        ValueError: a file that is not parquet, files that do not fit together, or a split is missing.
    """
    folder, parts = Path(name), list(dict.fromkeys([*needed, *apart]))
    wanted = listed([f"{part}.parquet" for part in parts])
    advice = f"Give a folder with {wanted}, or a Hub id such as uoft-cs/cifar10 with the network on."
    if folder.is_dir():
        parts += [part for part in optional if (folder / f"{part}.parquet").is_file()]
        files = {part: folder / f"{part}.parquet" for part in parts}
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
        alike = {part: str(file) for part, file in files.items() if part not in apart}
        try:
            dataset = load_dataset("parquet", data_files=alike)  # with the class names of the first file in all
            schemas = {part: Features.from_arrow_schema(read_schema(file)) for part, file in alike.items()}
            for part in apart:  # may have no labels
                dataset[part] = load_dataset("parquet", data_files={part: str(files[part])}, split=part)
        except Exception as error:  # of pyarrow, of datasets
            cause = " ".join(str(error.__cause__ or error).split())
            raise ValueError(
                f"{listed([files[part].name for part in alike])} in {name!r} do not make one dataset "
                f"({cause:.300}). {advice}"
            ) from error
        for part, features in schemas.items():
            if class_names_in(features) != class_names_in(dataset[part].features):
                whole = load_dataset("parquet", data_files={part: alike[part]}, split=part)
                first = dataset[parts[0]].features
                dataset[part] = with_classes_of(whole, f"{part}.parquet", first, f"{parts[0]}.parquet")
        return dataset
    try:
        dataset = load_dataset(name)
    except Exception as error:
        raise FileNotFoundError(
            f"{name!r} is no folder here ({Path.cwd()}) and could not be loaded from the Hub "
            f"({type(error).__name__}). {advice}"
        ) from error
    if not set(parts) <= set(dataset):
        raise ValueError(f"the dataset {name!r} must have splits {listed(parts)}, found {', '.join(dataset)}.")
    return DatasetDict({part: dataset[part] for part in [*parts, *optional] if part in dataset})


def listed(names: Sequence[str]) -> str:
    """Such as "a, b and c"."""
    return " and ".join([", ".join(names[:-1])] * (len(names) > 1) + [names[-1]])


def load_classifier(
    name: str,
    class_names: Sequence[str],
    image_size: int | None = None,
    modality: Modality = _IMAGES,
    weights_file: str | None = None,
) -> tuple[Any, Any]:
    """A classifier trained on the given classes, its weights float32, and its image processor, tokenizer, ...

    Weights are read from safetensors, and code that comes with a checkpoint is never run.

    Args:
        name: a Hub id or a folder.
        class_names: K names, for the check and the message.
        image_size: side in pixels, in the place of the checkpoint's own; saved with the model.
        modality: what it classifies; default: images.
        weights_file: pickled weights that are to be read instead, by their name: "pytorch_model.bin".

    Raises:
        FileNotFoundError: nothing that can be loaded.
        NotPlainError: see `plain_files.require_plain`.
        ValueError: another number of classes, weights that are missing, or a processor that does not suit.
    """
    model, info, processor = _load(name, modality, weights_file)
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


def _load(name: str, modality: Modality, weights_file: str | None, **options: Any) -> tuple[Any, dict[str, Any], Any]:
    """Model, what was missing in its checkpoint, processor."""
    with _looked_for(name, modality):
        require_plain(name, weights_file)
        model, info, processor = modality.load(name, use_safetensors=weights_file is None, **options)
    modality.fit_processor(model, processor)
    return model, info, processor


def knows_classes(name: str, class_names: Sequence[str]) -> bool:
    """Whether a checkpoint is a classifier of the given classes, in whatever order.

    Raises:
        FileNotFoundError: nothing that can be loaded.
    """
    with _looked_for(name, _IMAGES):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    return sorted(map(str, (config.id2label or {}).values())) == sorted(class_names)


def load_for_classes(
    name: str,
    class_names: Sequence[str],
    image_size: int | None = None,
    modality: Modality = _IMAGES,
    probe: Callable[[Any], dict[str, Any]] = _IMAGES.probe,
    weights_file: str | None = None,
) -> tuple[Any, Any]:
    """A pretrained model with a head for the given classes, to be trained first, and its processor.

    A head of another size, or none, gives way to one with random weights; a head of the right size stays. So do the
    layers that many text and audio classifiers have between backbone and head, where a checkpoint lacks them.

    Args:
        name, class_names, image_size, modality, weights_file: as for `load_classifier`; the name of a `wide_resnet`
            gives one with random weights.
        probe: from the processor to model inputs, by which the head is found; default: a blank image.

    Raises:
        FileNotFoundError: nothing that can be loaded.
        NotPlainError: see `plain_files.require_plain`.
        ValueError: weights of the backbone are missing, or a processor that does not suit.
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
    with _looked_for(name, modality):
        require_plain(name, weights_file)
        config_class = getattr(modality.model_class, "config_class", None) or AutoConfig
        config = config_class.from_pretrained(name, num_labels=len(class_names), trust_remote_code=False)
    set_class_names(config, class_names)
    if getattr(config, "model_args", None):  # a timm model saved with its number of classes
        config.model_args = {k: v for k, v in config.model_args.items() if k != "num_classes"}
    model, info, processor = _load(name, modality, weights_file, config=config, ignore_mismatched_sizes=True)
    head = find_head(model, probe(processor))
    missing = [
        key
        for key in sorted(info["missing_keys"])
        if not key.startswith(tuple(head.names)) and _of_backbone(key, model.base_model_prefix)
    ]
    if missing:
        raise ValueError(
            f"the checkpoint {name!r} lacks {len(missing)} weights of the backbone, which would be random "
            f"({', '.join(missing[:3])}): give the id of a pretrained model."
        )
    return model, processor if image_size is None else _resized(model, processor, image_size)


def _of_backbone(key: str, prefix: str) -> bool:
    """Not of the layers behind it, nor of a pooler, which language models are published without."""
    return not prefix or (key.startswith(f"{prefix}.") and not key.startswith(f"{prefix}.pooler."))


@contextmanager
def _looked_for(name: str, modality: Modality) -> Iterator[None]:
    try:
        yield
    except NotPlainError:
        raise
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"no {modality.wanted} could be loaded from {name!r}, as a folder in {Path.cwd()} or from the Hub "
            f"({str(error).splitlines()[0]}). Give a folder that save_pretrained wrote, or a Hub id with the network "
            "on."
        ) from error


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
