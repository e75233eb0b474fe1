"""Tiny random models and made-up images that the trainer's tests share: fast, offline, and with something to learn."""

import gc
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from timm.data import create_transform
from torchvision.transforms import v2
from transformers import (
    BeitForImageClassification,
    ConvNextForImageClassification,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    Dinov2ForImageClassification,
    ResNetForImageClassification,
    SwinForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTForImageClassification,
    ViTImageProcessor,
    set_seed,
)
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

from selmix_hf import SelMixConfig, SelMixTrainer

NAMES = ("red", "green", "blue", "grey")
COLOURS = np.array([[160, 90, 90], [90, 160, 90], [90, 90, 160], [120, 120, 120], [90, 160, 160]])
SIDE = 16
BARE = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
TRAIN_COUNTS, GAIN_COUNTS = (30, 15, 8, 4), (9, 8, 7, 9)  # 33 validation images: odd, for two processes

_VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 8}
_VIT |= {"image_size": SIDE}
_SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2, "patch_size": 4}
_CLASSES = {
    "vit": (ViTForImageClassification, _VIT),
    "deit": (DeiTForImageClassification, _VIT),
    "deit-distilled": (DeiTForImageClassificationWithTeacher, _VIT),
    "beit": (BeitForImageClassification, {**_VIT, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]}),
    "dinov2": (Dinov2ForImageClassification, _VIT),
    "swin": (SwinForImageClassification, {**_SWIN, "image_size": SIDE}),
    "convnext": (
        ConvNextForImageClassification,
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 4},
    ),
    "resnet": (ResNetForImageClassification, {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}),
}
NATIVE = tuple(_CLASSES)


def images(counts=TRAIN_COUNTS, seed: int = 0, names=NAMES) -> Dataset:
    """Noisy squares, one colour a class, counts[k] of class k; hard enough that a perfect classifier is unlikely."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    shift = generator.normal(0, 15, (len(labels), 1, 1, 3))
    pixels = COLOURS[labels][:, None, None] + shift + generator.normal(0, 40, (len(labels), SIDE, SIDE, 3))
    pictures = [PILImage.fromarray(x) for x in pixels.clip(0, 255).astype(np.uint8)]
    features = Features({"image": Image(), "label": ClassLabel(names=list(names))})
    return Dataset.from_dict({"image": pictures, "label": labels.tolist()}, features=features)


def renamed(dataset: Dataset, names: Any) -> Dataset:
    """The same samples, their classes numbered as in these names."""
    own = dataset.features["label"].names
    labels = [names.index(own[label]) for label in dataset["label"]]
    return dataset.remove_columns("label").add_column("label", labels, feature=ClassLabel(names=list(names)))


def processor(model: Any = None) -> Any:
    if isinstance(model, TimmWrapperForImageClassification):
        return TimmWrapperImageProcessor(pretrained_cfg=model.config.pretrained_cfg)
    return ViTImageProcessor(size={"height": SIDE, "width": SIDE})


def to_tensor(image: Any) -> torch.Tensor:
    """What `processor` does, as a transform."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def random_view(image: Any) -> torch.Tensor:
    """A random train_transform that draws from all three global generators."""
    pixels = to_tensor(image)
    if random.random() < 0.5:
        pixels = pixels.flip(2)
    return pixels * (0.8 + 0.4 * np.random.rand()) + 0.1 * torch.randn(3, 1, 1)


def torchvision_view() -> Any:
    return v2.Compose(
        [
            v2.RandomResizedCrop(SIDE),
            v2.RandAugment(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomErasing(p=0.5),
        ]
    )


def timm_view() -> Any:
    return create_transform(SIDE, is_training=True, auto_augment="rand-m9-mstd0.5", re_prob=0.5)


def model(kind: str = "resnet", num_classes: int = 4, seed: int = 0, **options: Any) -> Any:
    """A model of transformers (one of NATIVE) or, for names such as "test_convnext", a wrapped timm model."""
    set_seed(seed)
    if kind not in _CLASSES:
        return timm_model(kind, num_classes, **options)
    cls, arguments = _CLASSES[kind]
    return cls(cls.config_class(**{**arguments, "num_labels": num_classes, **options})).eval()


def timm_model(architecture: str, num_classes: int = 4, **options: Any) -> TimmWrapperForImageClassification:
    picture = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    config = TimmWrapperConfig(
        architecture=architecture,
        model_args={"img_size": 32, **options} if "vit" in architecture else options,
        pretrained_cfg={**picture, "crop_pct": 1.0, "num_classes": num_classes, "architecture": architecture},
        num_labels=num_classes,
    )
    return TimmWrapperForImageClassification(config).eval()


LORA_TARGETS = ("q_proj", "v_proj", "qkv", "convolution")
HEADS = {
    "test_vit": ["timm_model.head"],
    "deit-distilled": ["cls_classifier", "distillation_classifier"],
    "resnet": ["classifier.1"],
}


def lora(kind: str = "vit", base: Any = None, **options: Any) -> Any:
    """A model of `kind`, or a given one, with LoRA on attention or convolutions, whose head trains too."""
    from peft import LoraConfig, get_peft_model

    made = {"r": 2, "target_modules": list(LORA_TARGETS), "modules_to_save": HEADS.get(kind, ["classifier"])}
    return get_peft_model(model(kind) if base is None else base, LoraConfig(**{**made, **options}))


def config(folder: str | Path, **options: Any) -> SelMixConfig:
    """A quiet run of two periods of four steps on the CPU, whose rates let a tiny model move."""
    defaults = {
        "max_steps": 8,
        "refresh_steps": 4,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 16,
        "learning_rate": 0.1,
        "head_start": "as_is",
        "backbone_learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": True,
        "ddp_backend": "gloo" if "WORLD_SIZE" in os.environ else None,
        "dataloader_pin_memory": False,
    }
    return SelMixConfig(str(folder), **{**defaults, **options})


def trainer(folder: str | Path, kind: Any = "resnet", **options: Any) -> SelMixTrainer:
    """A trainer on `images`; arguments of SelMixTrainer go there, all others to `config`."""
    own = ("train_dataset", "gain_dataset", "eval_dataset", "processing_class", "objective", "train_transform")
    own += ("eval_transform", "compute_metrics", "compute_loss_func", "callbacks", "data_collator", "head_name")
    own += ("label_column", "optimizers", "unlabeled_dataset", "unlabeled_labels", "teacher", "sample_weights")
    own += ("class_order",)
    given = {name: options.pop(name) for name in own if name in options}
    if callable(options.get("mixing")):  # names go to the config
        given["mixing"] = options.pop("mixing")
    made = model(kind) if isinstance(kind, str) else kind
    if "eval_transform" not in given and "data_collator" not in given:
        given.setdefault("processing_class", processor(made))
    given.setdefault("train_dataset", images())
    given.setdefault("gain_dataset", images(GAIN_COUNTS, seed=1))
    return SelMixTrainer(made, config(folder, **options), **given)


def losses(run: SelMixTrainer) -> list[float]:
    """The logged training losses, one a step."""
    return [log["loss"] for log in run.state.log_history if "loss" in log]


def weights(run: Any) -> dict[str, torch.Tensor]:
    """A copy of the weights of a trainer's model, or of a model."""
    return {name: value.clone() for name, value in getattr(run, "model", run).state_dict().items()}


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def logits(model: Any) -> torch.Tensor:
    """Of three random images."""
    model.eval()
    with torch.no_grad():
        return model(pixel_values=torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))).logits


# every train() collects garbage: what was imported so far need not be walked each time
gc.collect()
gc.freeze()


UNLABELED_COUNTS = (12, 9, 11, 8)


def unlabeled(labels=None):
    """40 images; without a label column, or with the given labels."""
    found = images(UNLABELED_COUNTS, seed=5).shuffle(seed=0)
    found = found.remove_columns("label")
    return found if labels is None else found.add_column("label", labels)
