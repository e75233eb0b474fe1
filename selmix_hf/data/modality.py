"""What the samples of a benchmark are: images, texts, or whatever has a collator."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, Image
from datasets.fingerprint import Hasher
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from selmix_hf.data.collators import Collator, default_collator, probe_batch
from selmix_hf.data.examples import image_columns
from selmix_hf.data.keys import image_digests

MOST_TOKENS = 512  # of a text, where nobody says


@dataclass(frozen=True)
class Modality:
    """How a classifier of some kind of samples is loaded and fed, and what the samples are called.

    Recipes know `Images` and `Texts`. For another kind:

        Modality("audio-classification", AutoModelForAudioClassification, AutoFeatureExtractor, MyCollator)

    Attributes:
        task: of the Hub, such as "audio-classification": for cards and words.
        model_class: whose `from_pretrained` is called; an Auto class, or a model's own.
        processor_class: likewise; None: there is no processor.
        collator: called with the processor and the label column, gives what batches raw examples into model inputs
            with "labels"; None: what `SelMixTrainer` takes by default.
        of_pixels: whether sides, crops and cutting images together have a meaning.
        of_floats: whether inputs are numbers that can be mixed before the model.
    """

    task: str
    model_class: Any
    processor_class: Any = None
    collator: Callable[[Any, str], Collator] | None = None
    of_pixels: ClassVar[bool] = False
    of_floats: ClassVar[bool] = True

    @property
    def samples(self) -> str:
        """What they are called, in the plural."""
        return samples_of(self.task)

    @property
    def wanted(self) -> str:
        """What a checkpoint must hold, for messages."""
        return f"classifier of the kind {self.model_class.__name__}"

    def load(self, name: str, **options: Any) -> tuple[Any, dict[str, Any], Any]:
        """Model, what was missing in its checkpoint, processor.

        Weights are float32 whatever dtype the checkpoint has, which transformers would keep: in half precision most
        updates round to nothing.

        Args:
            name: a Hub id or a folder.
            options: of the model's from_pretrained.
        """
        options = {"trust_remote_code": False, "dtype": torch.float32, "output_loading_info": True, **options}
        model, info = self.model_class.from_pretrained(name, **options)
        if self.processor_class is None:
            return model, info, None
        return model, info, self.processor_class.from_pretrained(name, trust_remote_code=False)

    def fit_processor(self, model: Any, processor: Any) -> None:
        """Make the processor suit the model and what was asked for.

        Raises:
            ValueError: it cannot.
        """

    def prepared(self, dataset: Dataset, processor: Any) -> Dataset:
        """The dataset as the collator wants it."""
        return dataset

    def data_collator(self, processor: Any, label_column: str) -> Collator | None:
        """For the trainer's `data_collator`."""
        return None if self.collator is None else self.collator(processor, label_column)

    def probe(self, processor: Any, dataset: Dataset, label_column: str) -> dict[str, Any]:
        """Model inputs to find the head by: of the first and the last sample."""
        ends = self.prepared(dataset.select([0, len(dataset) - 1]), processor)
        own = self.data_collator(processor, label_column)
        return probe_batch(ends, default_collator(ends, processor, own, None, label_column))

    def check(self, dataset: Dataset, name: str) -> None:
        """Refuse a row without a sample; which is not to read them all.

        Args:
            name: of the dataset, for the message.

        Raises:
            ValueError: there is such a row.
        """


@dataclass(frozen=True)
class Images(Modality):
    """The images in the one column that has them."""

    task: str = "image-classification"
    model_class: Any = AutoModelForImageClassification
    processor_class: Any = AutoImageProcessor
    of_pixels: ClassVar[bool] = True

    @property
    def wanted(self) -> str:
        return "image classifier with its image processor"

    def probe(self, processor: Any, dataset: Any = None, label_column: str = "") -> dict[str, Any]:
        """A blank image."""
        return dict(processor(np.zeros((64, 64, 3), np.uint8), return_tensors="pt"))

    def check(self, dataset: Dataset, name: str) -> None:
        """From the columns' null bits; whether an image can be decoded is seen when it is."""
        for column in image_columns(dataset):
            images = dataset.data.column(column)
            missing_N = pc.is_null(images)
            if pa.types.is_struct(images.type):
                missing_N = pc.and_(*(pc.is_null(pc.struct_field(images, part)) for part in ("bytes", "path")))
            _require_none(np.flatnonzero(missing_N), "image", column, dataset, name)

    def digests(self, dataset: Dataset) -> Iterator[str]:
        """sha256 of each image as it is encoded."""
        column = str(image_columns(dataset)[0])
        images = dataset.select_columns(column)
        if isinstance(dataset.features[column], Image):
            images = images.cast_column(column, Image(decode=False))
        return image_digests(images, column)


@dataclass(frozen=True)
class Texts(Modality):
    """The texts in a column, tokenised once, padded a batch at a time.

    Attributes:
        column: of strings.
        max_length: tokens of a text, special ones among them; longer texts are cut. None: what the tokenizer and the
            model allow, but not more than `MOST_TOKENS`. Saved with the tokenizer, as its model_max_length.
    """

    task: str = "text-classification"
    model_class: Any = AutoModelForSequenceClassification
    processor_class: Any = AutoTokenizer
    column: str = "text"
    max_length: int | None = None
    of_floats: ClassVar[bool] = False

    @property
    def wanted(self) -> str:
        return "text classifier with its tokenizer"

    def fit_processor(self, model: Any, processor: Any) -> None:
        """The tokenizer cuts texts where they become too long, here and in whatever loads it later."""
        known, needed = len(processor), getattr(model.config, "vocab_size", None) or 0
        if 2 * known < needed:  # transformers makes an empty one where its files are missing
            raise ValueError(
                f"the tokenizer knows {known:,} tokens and the model {needed:,}: save the one that the model was "
                "trained with beside it."
            )
        if processor.pad_token is None:
            raise ValueError(
                "the tokenizer has no padding token, without which texts of several lengths make no batch: set its "
                "pad_token and the pad_token_id of the model's config, and save both."
            )
        positions = getattr(model.config, "max_position_embeddings", None) or 0
        most = min(processor.model_max_length, positions) if positions > 0 else processor.model_max_length
        least = processor.num_special_tokens_to_add() + 1
        if self.max_length is not None and not least <= self.max_length <= most:
            raise ValueError(
                f"max_length must lie between {least} and {most} for this model and its tokenizer, found "
                f"{self.max_length}."
            )
        processor.model_max_length = self.max_length or min(most, MOST_TOKENS)

    def prepared(self, dataset: Dataset, processor: Any) -> Dataset:
        """With the tokens in further columns; on disk where the dataset is, and there for the next run."""
        _tokens({self.column: [""]}, processor, self.column)  # the first call changes the tokenizer's state
        backend = getattr(processor, "backend_tokenizer", None)
        state = [processor.model_max_length, processor if backend is None else backend.to_str()]
        return dataset.map(
            _tokens,
            batched=True,
            fn_kwargs={"tokenizer": processor, "column": self.column},
            new_fingerprint=Hasher.hash([dataset._fingerprint, self.column, *state]),  # wherever the tokenizer lies
        )

    def check(self, dataset: Dataset, name: str) -> None:
        missing_N = pc.is_null(dataset.select_columns(self.column).with_format("arrow")[:][self.column])
        _require_none(np.flatnonzero(missing_N), "text", self.column, dataset, name)

    def digests(self, dataset: Dataset) -> Iterator[str]:
        """sha256 of each text."""
        for batch in dataset.select_columns(self.column).iter(batch_size=1000):
            yield from (hashlib.sha256(text.encode()).hexdigest() for text in batch[self.column])


def _tokens(rows: dict[str, list[str]], tokenizer: Any, column: str) -> dict[str, list[Any]]:
    return dict(tokenizer(rows[column], truncation=True, max_length=tokenizer.model_max_length))


def _require_none(rows: np.ndarray, what: str, column: Any, dataset: Dataset, name: str) -> None:
    if len(rows):
        raise ValueError(
            f"{name} has no {what} in row {rows[0]} of its column {column!r} ({len(rows)} such rows of "
            f"{len(dataset)}): leave them out of the data."
        )


_SAMPLES = {
    "image-classification": "images",
    "audio-classification": "recordings",
    "text-classification": "texts",
}


def samples_of(task: str | None) -> str:
    """What the samples of a task are called, in the plural."""
    return _SAMPLES.get(task or "", "samples")
