"""From pairs of samples to one batch of 2B samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from selmix_hf.sampling import PairExample, SeededExample, fetch, isolated_random_state

Collator = Callable[[list[Any]], dict[str, Any]]


class ImageCollator:
    """Batch examples with a PIL image and a label into pixel_values and labels.

    Args:
        processing_class: an image processor of transformers; used where no transform is given.
        transform: image (PIL, RGB) -> tensor C x H x W, such as torchvision's or timm's.
        image_column, label_column: keys of an example.
    """

    def __init__(
        self,
        processing_class: Any = None,
        transform: Callable[[Any], Tensor] | None = None,
        image_column: str = "image",
        label_column: str = "label",
    ) -> None:
        if processing_class is None and transform is None:
            raise ValueError(
                "images need processing_class (such as AutoImageProcessor.from_pretrained(...)) or a transform that "
                "turns a PIL image into a tensor; found neither."
            )
        self.processing_class, self.transform = processing_class, transform
        self.image_column, self.label_column = image_column, label_column

    def __call__(self, examples: Sequence[dict[str, Any]], seeds: Sequence[int] | None = None) -> dict[str, Any]:
        """Batch the examples; with `seeds`, each example's transform runs under its own random state."""
        images = [_as_rgb(example[self.image_column]) for example in examples]
        if self.transform is None:
            pixels = self.processing_class(images, return_tensors="pt")["pixel_values"]
        elif seeds is None:
            pixels = torch.stack([torch.as_tensor(self.transform(image)) for image in images])
        else:
            views = []
            for image, seed in zip(images, seeds, strict=True):
                with isolated_random_state(seed):
                    views.append(torch.as_tensor(self.transform(image)))
            pixels = torch.stack(views)
        batch: dict[str, Any] = {"pixel_values": pixels}
        if all(self.label_column in example for example in examples):
            batch["labels"] = torch.as_tensor([int(example[self.label_column]) for example in examples])
        return batch


def _as_rgb(image: Any) -> Any:
    return image.convert("RGB") if getattr(image, "mode", "RGB") != "RGB" else image


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
            batch["labels"] = torch.as_tensor([int(example[self.label_column]) for example in examples])
        return batch


class SelMixCollator:
    """Turn drawn pairs into one batch; other examples go through the evaluation collator.

    Use it with a `PairDataset` and a `PairSampler` in a DataLoader of your own, or let `SelMixTrainer` do it.

    Args:
        collator: batches plain examples into model inputs with "labels"; used for the pairs and, where
            `eval_collator` is not given, for evaluation. One that accepts `seeds` (as `ImageCollator`) gets a seed a
            sample; any other runs under the random state of the batch's first seed.
        eval_collator: for examples that are not pairs.

    A batch of B pairs has 2B rows in every input, first samples before second ones; "labels" (B), those of the first
    samples; "mixing_coefficient" (B), the share of the first sample.
    """

    def __init__(self, collator: Collator | ImageCollator, eval_collator: Collator | None = None) -> None:
        self.collator = collator
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
        batch = self._seeded(samples, seeds)
        if "labels" not in batch:
            raise ValueError(f"the collator must give 'labels', found {sorted(batch)}.")
        batch["labels"] = batch["labels"][: len(pairs)]
        batch["mixing_coefficient"] = torch.tensor([pair.coefficient for pair in pairs], dtype=torch.float32)
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
    transform: Callable[[Any], Tensor] | None,
    label_column: str,
) -> Collator | ImageCollator:
    """The collator for a dataset: the user's own; else an `ImageCollator` where the dataset has an image column, a
    `TokenCollator` where there is a tokenizer; else what Trainer takes by default.

    Raises:
        ValueError: a transform without an image column, several image columns, or both a transform and a collator.
    """
    from datasets import Image
    from transformers import PreTrainedTokenizerBase, default_data_collator

    columns = [name for name, kind in (getattr(dataset, "features", None) or {}).items() if isinstance(kind, Image)]
    if data_collator is not None:
        if transform is not None:
            raise ValueError("give either a data_collator or transforms: a collator of your own applies its own.")
        return data_collator
    if columns and (transform is not None or not _makes_inputs(dataset, columns[0])):
        if len(columns) > 1:
            raise ValueError(f"the dataset has several image columns ({', '.join(columns)}): keep one.")
        return ImageCollator(processing_class, transform, columns[0], label_column)
    if transform is not None:
        raise ValueError("train_transform and eval_transform work on images, but the dataset has no image column.")
    if isinstance(processing_class, PreTrainedTokenizerBase):
        return TokenCollator(processing_class, label_column)
    return default_data_collator


def _makes_inputs(dataset: Any, image_column: str) -> bool:
    """Whether the dataset's own transform already makes model inputs of its images."""
    if getattr(dataset, "format", {}).get("type") != "custom":
        return False
    with isolated_random_state(0):
        example = dataset[0]
    return "pixel_values" in example or image_column not in example


def probe_batch(dataset: Any, collator: Any) -> dict[str, Any]:
    """Model inputs of the first and the last sample."""
    with isolated_random_state(0):
        batch = dict(collator(list(fetch(dataset, [0, len(dataset) - 1]))))
    batch.pop("labels", None)
    return batch
