"""From pairs of samples to one batch of 2B samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import DecompressionBombError, Image
from torch import Tensor

from selmix_hf.data.bad_images import BadImageError, naming_sets, reason
from selmix_hf.data.examples import (
    Column,
    class_of,
    collate_inputs,
    collate_tuples,
    first_item,
    has_column,
    has_features,
    image_columns,
    inputs_of,
    is_tuple,
    value_of,
)
from selmix_hf.data.pairs import PairExample
from selmix_hf.data.pixels import holds_image, is_encoded, num_channels, picture
from selmix_hf.data.random_state import isolated_random_state
from selmix_hf.data.seeded import SeededExample, fetch
from selmix_hf.data.views import CropAndFlip

Collator = Callable[[list[Any]], dict[str, Any]]
ImageTransform = Callable[[Any], Tensor | Mapping[str, Tensor]]  # PIL, RGB -> C x H x W, or inputs by name


class ImageCollator:
    """Batch examples with an image and a label into pixel_values, what else the processor gives, and labels.

    Args:
        processing_class: an image processor of transformers; used where no transform is given.
        transform: image (PIL, RGB) -> tensor C x H x W, such as torchvision's or timm's, or a mapping of all inputs of
            the model.
        image_column, label_column: keys of an example, or places in one that is a tuple; no labels where
            `label_column` is None. What an image may be see `pixels.picture`.
        channels: of the images that the model takes: of 1, `processing_class` and the views of `views`, which end in
            it, get PIL images of mode L. Any other transform gets RGB: for such a model begin it with Grayscale().
        inputs: that the model takes, by name; others that the processor gives are left out. None: all are kept.
    """

    def __init__(
        self,
        processing_class: Any = None,
        transform: ImageTransform | None = None,
        image_column: Column = "image",
        label_column: Column | None = "label",
        channels: int = 3,
        inputs: set[str] | None = None,
    ) -> None:
        if processing_class is None and transform is None:
            raise ValueError(
                "images need processing_class (such as AutoImageProcessor.from_pretrained(...)) or a transform that "
                "turns a PIL image into a tensor; found neither. Without processing_class give both train_transform "
                "and eval_transform."
            )
        for name, given in (("processing_class", processing_class), ("the transform", transform)):
            if given is not None and not callable(given):
                raise ValueError(f"{name} must be an object that can be called on images, found {given!r}.")
        self.processing_class, self.transform = processing_class, transform
        self.image_column, self.label_column, self.inputs = image_column, label_column, inputs
        by_processor = transform is None or isinstance(transform, CropAndFlip)
        self.mode = "L" if channels == 1 and by_processor else "RGB"

    def __call__(self, examples: Sequence[Any], seeds: Sequence[int] | None = None) -> dict[str, Any]:
        """Batch the examples; with `seeds`, each example's transform runs under its own random state."""
        images = [_picture(value_of(example, self.image_column, "image"), self.mode) for example in examples]
        if self.transform is None:
            batch = self._processed(images)
        elif seeds is None:
            batch = _stack([self.transform(image) for image in images])
        else:
            views = []
            for image, seed in zip(images, seeds, strict=True):
                with isolated_random_state(seed):
                    views.append(self.transform(image))
            batch = _stack(views)
        if self.inputs is not None:
            batch = {name: value for name, value in batch.items() if name in self.inputs} or batch
        column = self.label_column
        if column is not None and all(has_column(example, column) for example in examples):
            batch["labels"] = torch.as_tensor([class_of(example, column) for example in examples])
        return batch

    def _processed(self, images: list[Any]) -> dict[str, Any]:
        try:
            return dict(self.processing_class(images, return_tensors="pt"))
        except (RuntimeError, ValueError) as error:
            if self.mode == "RGB":
                raise
            raise ValueError(
                "the model takes images of one channel, and its processing_class cannot make them "
                f"({str(error).strip():.200}): load it with a mean and a deviation of one channel, such as "
                "AutoImageProcessor.from_pretrained(..., image_mean=[0.5], image_std=[0.5]), or give transforms."
            ) from error


def _picture(value: Any, mode: str) -> Image:
    if value is None:
        raise BadImageError("an image is missing: leave its row out.")
    try:
        return picture(value, mode)
    except (OSError, SyntaxError, DecompressionBombError) as error:  # of a file that the dataset does not decode
        path = value["path"] if is_encoded(value) else getattr(value, "filename", None)
        raise BadImageError(f"an image ({path or 'bytes'}) cannot be decoded: {reason(error)}.") from error


def _stack(views: list[Any]) -> dict[str, Any]:
    if isinstance(views[0], Mapping):
        return {name: torch.stack([torch.as_tensor(view[name]) for view in views]) for name in views[0]}
    shapes = {tuple(getattr(view, "shape", ())) for view in views}
    if len(shapes) != 1 or len(next(iter(shapes))) != 3:
        found = ", ".join(str(list(shape)) for shape in sorted(shapes)) if () not in shapes else repr(views[0])
        raise ValueError(
            f"a transform must turn every image into a tensor C x H x W, all of one shape, found {found:.200}: end it "
            "with a crop or resize to a fixed size and ToTensor(), or leave it out for what processing_class does."
        )
    return {"pixel_values": torch.stack([torch.as_tensor(view) for view in views])}


class TokenCollator:
    """Pad tokenised examples; columns that the model does not know, such as the text itself, are left out.

    Args:
        tokenizer: says which columns are inputs, and pads them.
        label_column: key of the class.
    """

    def __init__(self, tokenizer: Any, label_column: str = "label") -> None:
        self.tokenizer, self.label_column = tokenizer, label_column

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        names = [name for name in self.tokenizer.model_input_names if name in examples[0]]
        if not names:
            raise ValueError(
                f"expected tokenised examples with {' or '.join(self.tokenizer.model_input_names)}, found "
                f"{', '.join(examples[0])}: call dataset.map(lambda row: tokenizer(row['text'])) first."
            )
        batch = dict(self.tokenizer.pad([{n: example[n] for n in names} for example in examples], return_tensors="pt"))
        if all(self.label_column in example for example in examples):
            batch["labels"] = torch.as_tensor([class_of(example, self.label_column) for example in examples])
        return batch


class SelMixCollator:
    """Turn drawn pairs into one batch; other examples go through the evaluation collator.

    Use it with a `PairDataset` and a `PairSampler` in a DataLoader of your own, or let `SelMixTrainer` do it.

    Args:
        collator: batches plain examples into model inputs with "labels"; used for the pairs and, where
            `eval_collator` is not given, for evaluation. One that accepts `seeds` (as `ImageCollator`) gets a seed a
            sample; any other runs under the random state of the batch's first seed.
        eval_collator: for examples that are not pairs.
        reuse: whether a sample that the batch holds twice, under the same seed, is one row of the inputs; the batch
            then has "mixing_index" (2B): the rows of the first samples, then those of the second ones.
        for_inputs: whether the batch has what mixing before the model needs: "mixing_uniform" (B x 2), numbers in
            [0, 1) that the seeds of a pair fix, and "second_labels" (B), the classes that the second samples were
            drawn as.

    A batch of B pairs has 2B rows in every input, first samples before second ones; "labels" (B), those of the first
    samples; "mixing_coefficient" (B), the share of the first sample.
    """

    def __init__(
        self,
        collator: Collator | ImageCollator,
        eval_collator: Collator | None = None,
        reuse: bool = False,
        for_inputs: bool = False,
    ) -> None:
        self.collator, self.reuse, self.for_inputs = collator, reuse, for_inputs
        self.eval_collator = eval_collator or collator
        self.augments = getattr(collator, "transform", None) is not None

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        if isinstance(examples[0], SeededExample):
            return self._seeded([example.sample for example in examples], [example.seed for example in examples])
        if not isinstance(examples[0], PairExample):
            return self.eval_collator(examples)
        pairs = [example.pair for example in examples]
        samples = [example.first for example in examples] + [example.second for example in examples]
        seeds = [pair.first_seed for pair in pairs] + [pair.second_seed for pair in pairs]
        index = list(range(len(samples)))
        if self.reuse:
            keys = [(pair.first, pair.first_seed) for pair in pairs] + [(p.second, p.second_seed) for p in pairs]
            row_of: dict[tuple[int, int], int] = {}
            index = [row_of.setdefault(key, len(row_of)) for key in keys]
            sample_of = dict(zip(keys, samples, strict=True))  # in the order of the rows
            samples, seeds = list(sample_of.values()), [seed for _, seed in sample_of]
        batch = self._seeded(samples, seeds)
        if "labels" not in batch:
            raise ValueError(f"the collator must give 'labels', found {sorted(batch)}.")
        batch["labels"] = batch["labels"][index[: len(pairs)]]
        if self.reuse:
            batch["mixing_index"] = torch.tensor(index)
        batch["mixing_coefficient"] = torch.tensor([pair.coefficient for pair in pairs], dtype=torch.float32)
        if self.for_inputs:
            uniform = [np.random.default_rng([pair.first_seed, pair.second_seed]).random(2) for pair in pairs]
            batch["mixing_uniform"] = torch.tensor(np.stack(uniform), dtype=torch.float32)
            batch["second_labels"] = torch.tensor([pair.second_class for pair in pairs])
        return batch

    def _seeded(self, samples: list[Any], seeds: list[int]) -> dict[str, Any]:
        if isinstance(self.collator, ImageCollator):
            return dict(self.collator(samples, seeds=seeds))
        with isolated_random_state(seeds[0]):
            return dict(self.collator(samples))


def default_collator(
    dataset: Any,
    processing_class: Any,
    data_collator: Collator | None,
    transform: ImageTransform | None,
    label_column: str,
    model: Any = None,
) -> Collator | ImageCollator:
    """The collator for a dataset: the user's own; else an `ImageCollator` where the dataset has images (in a column of
    any name, or in the items of a torch dataset), a `TokenCollator` where there is a tokenizer; else what Trainer
    takes by default. Batches have the classes as "labels" whatever the label column is called, and images the channels
    that the model takes.

    Raises:
        ValueError: a transform without an image column, several image columns, or both a transform and a collator.
    """
    from transformers import PreTrainedTokenizerBase

    if data_collator is not None:
        if transform is not None:
            raise ValueError("give either a data_collator or transforms: a collator of your own applies its own.")
        ours = isinstance(data_collator, ImageCollator | TokenCollator)
        return data_collator if ours else NamedLabels(data_collator, label_column)
    columns = image_columns(dataset)
    if columns and (transform is not None or not _makes_inputs(dataset, columns[0], processing_class)):
        if len(columns) > 1:
            raise ValueError(f"the dataset has several image columns ({', '.join(map(str, columns))}): keep one.")
        in_tuple = isinstance(columns[0], int)
        label = 1 if in_tuple else label_column
        return ImageCollator(processing_class, transform, columns[0], label, num_channels(model), inputs_of(model))
    if transform is not None:
        raise ValueError(
            "train_transform and eval_transform work on images, but the dataset has no image column, or has "
            "pixel_values that are made already: leave those out by remove_columns."
        )
    if isinstance(processing_class, PreTrainedTokenizerBase):
        return TokenCollator(processing_class, label_column)
    in_tuple = not has_features(dataset) and is_tuple(first_item(dataset))
    return NamedLabels(collate_tuples if in_tuple else collate_inputs, label_column)


def _makes_inputs(dataset: Any, image_column: Column, processing_class: Any) -> bool:
    """Whether the dataset, or its own transform, already makes model inputs of its images."""
    if processing_class is None and not has_features(dataset):  # numbers H x W that nothing can process
        return not holds_image(value_of(first_item(dataset), image_column, "image"))
    if getattr(dataset, "format", {}).get("type") != "custom":
        return False
    example = first_item(dataset)
    return "pixel_values" in example or image_column not in example


def probe_batch(dataset: Any, collator: Any, name: str = "the dataset") -> dict[str, Any]:
    """Model inputs of the first and the last sample.

    Raises:
        ValueError: the batch has no labels, or nothing beside them; an image cannot be decoded.
    """
    with isolated_random_state(0), naming_sets({name: dataset}):
        examples = list(fetch(dataset, [0, len(dataset) - 1]))
        batch = dict(collator(examples))
    made_of = ", ".join(examples[0]) if isinstance(examples[0], Mapping) else f"a {type(examples[0]).__name__}"
    if batch.pop("labels", None) is None:
        raise ValueError(
            f"{name}: a batch must have the classes as 'labels', found {', '.join(batch) or 'nothing'}, made of "
            f"examples with {made_of}. Name the label column by label_column (the same in every set: see "
            "rename_column), or let data_collator give 'labels'."
        )
    if not batch:
        raise ValueError(
            f"{name}: a batch has no input for the model beside its labels, made of examples with {made_of}. Texts "
            "must be tokenised, dataset.map(lambda rows: tokenizer(rows['text']), batched=True), with "
            "processing_class=tokenizer; files of images become images by cast_column(column, datasets.Image())."
        )
    return batch


class NamedLabels:
    """Any collator, whose batches have the classes as "labels" also where the label column has another name.

    Args:
        collator: batches examples into model inputs.
        label_column: key of the class in an example; what a batch has under it becomes "labels".
    """

    def __init__(self, collator: Callable[[list[Any]], Mapping[str, Any]], label_column: str) -> None:
        self.collator, self.label_column = collator, label_column

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        batch = dict(self.collator(examples))
        if "labels" not in batch and self.label_column in batch:
            batch["labels"] = batch.pop(self.label_column)
        return batch
