"""What the semi-supervised trainers share: batches of labelled and unlabelled images, the weight average, the ramp.

Shape suffixes: B labelled samples, U = mu B unlabelled ones, V views, K classes, C channels, H x W pixels.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.trainer_utils import EvalLoopOutput

from selmix_hf.data.bad_images import kept_images, naming_sets
from selmix_hf.data.collators import Collator, ImageCollator, ImageTransform
from selmix_hf.data.examples import Column, has_features, image_columns, require_random_access
from selmix_hf.data.pixels import num_channels
from selmix_hf.data.random_state import seed_of_draws
from selmix_hf.data.views import ShiftAndFlip
from selmix_hf.models.head import logits_of
from selmix_hf.trainer_options import VIEWS
from selmix_hf.training.finite import LABELLED
from selmix_hf.training.semi_supervised.average import WeightAverageCallback
from selmix_hf.training.semi_supervised.draws import Draw, DrawDataset, DrawSampler, ViewCollator
from selmix_hf.training.stage1 import Stage1Trainer


class SemiSupervisedTrainer(Stage1Trainer):
    """`Stage1Trainer` that also learns from unlabelled images; a subclass says how, in `losses`.

    The loss is labelled + unlabeled_weight * ramp * unlabelled, both means over the batch; `label_smoothing_factor` is
    of the labelled one. `evaluate`, `predict` and
    every saved model mean the average of the weights (`average.WeightAverageCallback`), and after `train` so does
    `model`; a checkpoint has the weights beside it, so that a resumed run goes on bit for bit. An epoch is one pass
    over the labelled set, filled up to whole optimizer steps from the next pass. True labels of `unlabeled_dataset`
    are never read. The papers' unlabelled sets include the labelled images: concatenate them if yours should.

    Args:
        model, args, train_dataset, eval_dataset, processing_class: as for `Stage1Trainer`;
            `per_device_train_batch_size` counts labelled images.
        unlabeled_dataset: with one column of images; no label column is needed.
        mu: unlabelled images for each labelled one.
        ema_decay: of the average, in [0, 1).
        unlabeled_weight: lambda_u, not negative.
        rampup_steps: optimizer steps over which the unlabelled weight rises; 0 for none.
        weak_transform: image (PIL, RGB) -> tensor for labelled images and weak views; default
            `views.ShiftAndFlip` before `processing_class`.
        kwargs: as for `Stage1Trainer`, but no data_collator, mixup_alpha, train_transform, sampling or sample_weights.

    Attributes:
        batch_generator: of what `losses` draws, anew for each batch from the seeds of its labelled samples: it depends
            neither on what else was drawn nor on where a run was resumed, and processes draw apart.

    Raises:
        ValueError: options out of range, no unlabelled images, or views of different shapes.
        TypeError: an unlabelled set without random access.
    """

    model: PreTrainedModel
    train_dataset: Any
    batch_generator: np.random.Generator
    own_rules = (VIEWS,)
    has_geometry = True

    def __init__(
        self,
        model: PreTrainedModel | None = None,
        args: TrainingArguments | None = None,
        *,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        unlabeled_dataset: Any = None,
        mu: int = 7,
        ema_decay: float = 0.999,
        unlabeled_weight: float = 1.0,
        rampup_steps: int = 0,
        weak_transform: ImageTransform | None = None,
        **kwargs: Any,
    ) -> None:
        if taken := [name for name in ("data_collator", "mixup_alpha", "train_transform") if kwargs.get(name)]:
            raise ValueError(f"{type(self).__name__} makes its own views: give weak_transform, not {taken[0]}.")
        if taken := [name for name in ("sampling", "sample_weights") if name in kwargs]:
            raise ValueError(f"{type(self).__name__} draws whole passes over both sets: leave {taken[0]} out.")
        if isinstance(mu, bool) or not isinstance(mu, int) or mu < 1:
            raise ValueError(f"mu counts the unlabelled images of each labelled one, at least 1, found {mu!r}.")
        for name, value in (("unlabeled_weight", unlabeled_weight), ("rampup_steps", rampup_steps)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and not negative, found {value}.")
        if weak_transform is None and processing_class is None:
            raise ValueError(
                "images need processing_class or weak_transform (and then eval_transform), found neither."
            )
        self.average = WeightAverageCallback(ema_decay)
        column = _image_column(unlabeled_dataset)
        how_bad = kwargs.get("on_bad_image", "raise")
        unlabeled_dataset, _ = kept_images(how_bad, "unlabeled_dataset", unlabeled_dataset)
        weak = weak_transform or ShiftAndFlip(processing_class)
        views = self.unlabeled_views(weak, processing_class)
        super().__init__(
            model,
            args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            train_transform=weak,
            **kwargs,
        )
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError("the average needs whole weights: use plain distributed training, not FSDP or DeepSpeed.")
        self.loss_is_scaled_for_ga = False  # a mean over the micro-batch: Trainer divides it by the accumulation steps
        self.model_accepts_loss_kwargs = False
        self.mu, self.unlabeled_weight, self.rampup_steps = mu, unlabeled_weight, rampup_steps
        whole = has_features(unlabeled_dataset) and unlabeled_dataset.format["type"] != "custom"
        self.unlabeled_dataset = unlabeled_dataset.select_columns(column) if whole else unlabeled_dataset
        how: dict[str, Any] = {"image_column": column, "label_column": None, "channels": num_channels(model)}
        view_collators = [ImageCollator(transform=view, **how) for view in views]
        self.data_collator = ViewCollator(cast(ImageCollator, self.data_collator), view_collators)
        self._noted: dict[str, tuple[Tensor, int]] = {}
        self.add_callback(self.average)
        with naming_sets(self._own_sets()):
            probe = DrawDataset(self.train_dataset, self.unlabeled_dataset)[Draw((0, 0), [(0, 0)] * mu)]
            self.data_collator([probe])

    # --- what a method says --------------------------------------------------------------------------------------

    def unlabeled_views(self, weak: ImageTransform, processing_class: Any) -> list[ImageTransform]:
        """The transforms of the V views of an unlabelled image: default two weak ones."""
        return [weak, weak]

    def losses(self, model: nn.Module, labelled: Tensor, labels: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        """The labelled and the unlabelled loss.

        Args:
            model: to be called once, through `logits`, with all images: batch-norm sees both kinds together.
            labelled: B x C x H x W.
            labels: B.
            views: V x U x C x H x W.
        """
        raise NotImplementedError

    def ramp(self, progress: float) -> float:
        """Share of the unlabelled weight at progress = step / rampup_steps, at most 1; default linear."""
        return progress

    # --- what it says it with ------------------------------------------------------------------------------------

    def logits(self, model: nn.Module, pixels: Tensor) -> Tensor:
        return logits_of(model(pixel_values=pixels))

    def logits_aside(self, pixels: Tensor, averaged: bool = False) -> Tensor:
        """Logits without gradient in training mode, of the current or of the averaged weights; buffers, such as
        batch-norm's running statistics, stay as they are."""
        own = self.model.state_dict()
        given = (self.average.values if averaged else None) or own
        buffers = {name for name, _ in self.model.named_buffers()}
        state = {name: given[name].to(value.dtype, copy=name in buffers) for name, value in own.items()}
        with torch.no_grad():
            return logits_of(functional_call(self.model, state, (), {"pixel_values": pixels}))

    def labelled_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.loss(SequenceClassifierOutput(logits=logits), labels, num_items_in_batch=None)
        return loss

    def note(self, **values: Tensor) -> None:
        """Numbers whose mean since the latest log, over all processes, is logged beside the loss."""
        for name, value in values.items():
            total, count = self._noted.get(name, (torch.zeros_like(value), 0))
            self._noted[name] = total + value.detach(), count + 1

    # --- Trainer's hooks -----------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        geometry = self._geometry()
        step = geometry["labeled_per_step"]
        sampler = DrawSampler(
            geometry["labeled"],
            geometry["unlabeled"],
            self.mu,
            num_draws=math.ceil(geometry["labeled"] / step) * step,
            get_epoch=lambda: int(self.state.epoch or 0),
            seed=geometry["seed"],
        )
        return self._get_dataloader(
            DrawDataset(self.train_dataset, self.unlabeled_dataset),
            description="Training",
            batch_size=self._train_batch_size,
            sampler_fn=lambda dataset: sampler,
            is_training=True,
        )

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if not model.training:
            return super().compute_loss(model, inputs, *args, **kwargs)
        pixels, labels = inputs["pixel_values"], inputs["labels"]
        self.batch_generator = np.random.default_rng(inputs["seeds"].tolist())
        views = pixels[:, 1:].unflatten(1, (-1, self.mu)).transpose(0, 1).flatten(1, 2)
        labelled, unlabelled = self.losses(model, pixels[:, 0], labels, views)
        self.note(labeled_loss=labelled, unlabeled_loss=unlabelled)
        return labelled + self._weight() * unlabelled

    def drawn_from(self) -> dict[str, tuple[Any, Collator]]:
        collator = cast(ViewCollator, self.data_collator)
        unlabelled = self.unlabeled_dataset, collator.views[0]
        return {LABELLED: (self.train_dataset, collator.labelled), "unlabeled_dataset": unlabelled}

    def _weight(self) -> float:
        step, steps = self.state.global_step, self.rampup_steps
        return self.unlabeled_weight * self.ramp(1.0 if step >= steps else step / steps)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            means = {
                name: self.accelerator.gather(total / count).mean() for name, (total, count) in self._noted.items()
            }
            logs, self._noted = {**logs, **{name: float(mean) for name, mean in means.items()}}, {}
        super().log(logs, *args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        with self.average.in_place_of_weights():
            return super().evaluation_loop(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        with self.average.in_place_of_weights():
            super().save_model(output_dir, _internal_call)

    def save_own(self, folder: str) -> None:
        super().save_own(folder)
        self.average.save(folder, self.model, self._geometry())

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.average.load(resume_from_checkpoint, self.model, self._geometry())

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        self.average.settle()  # before Trainer's part, which may load the best checkpoint
        return super()._finalize_training(*args, **kwargs)

    def _geometry(self) -> dict[str, int]:
        """What fixes which images a step draws."""
        return {
            "labeled_per_step": self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size,
            "mu": self.mu,
            "labeled": len(self.train_dataset),
            "unlabeled": len(self.unlabeled_dataset),
            "seed": seed_of_draws(self.args),
        }


def _image_column(unlabeled_dataset: Any) -> Column:
    if unlabeled_dataset is None:
        raise ValueError("give unlabeled_dataset, a dataset with a column of images; without one use Stage1Trainer.")
    require_random_access(unlabeled_dataset, "unlabeled_dataset")
    if len(unlabeled_dataset) == 0:
        raise ValueError("unlabeled_dataset is empty.")
    columns = image_columns(unlabeled_dataset)
    if len(columns) != 1:
        raise ValueError(
            f"unlabeled_dataset must have one column of images, found {', '.join(map(str, columns)) or 'none'}: drop "
            "others by remove_columns; files become images by cast_column(column, datasets.Image())."
        )
    return columns[0]
