"""What every card on the Hub shares: its frame, the licence and the citation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers.models.auto import modeling_auto

from selmix_hf.data.modality import samples_of

PAPER = "[SelMix](https://arxiv.org/abs/2403.18301)"

CITATION = """@inproceedings{ramasubramanian2024selmix,
  title = {Selective Mixup Fine-Tuning for Optimizing Non-Decomposable Objectives},
  author = {Ramasubramanian, Shrinivas and Rangwani, Harsh and Takemori, Sho and Samanta, Kunal and Umeda, Yuhei and
            Radhakrishnan, Venkatesh Babu},
  booktitle = {International Conference on Learning Representations},
  year = {2024},
  url = {https://arxiv.org/abs/2403.18301}
}"""


def fill(file: str, values: Mapping[str, str | None]) -> str:
    """A template of this folder with a value for every `$name`; a line that names a value of None is left out.

    Raises:
        KeyError: a name without a value.
    """
    lines = files(__package__).joinpath(file).read_text("utf-8").splitlines()
    told = [line for line in lines if not any(values[name] is None for name in Template(line).get_identifiers())]
    return Template(re.sub(r"\n{3,}", "\n\n", "\n".join(told))).substitute(values)


def assemble(data: ModelCardData, text: str, license: str | None, cite: bool = True) -> ModelCard:
    """The card: metadata, the text, and how to use and cite what it describes.

    Args:
        data: the metadata.
        text: Markdown, the title first.
        license: an identifier of the Hub, or None.
        cite: whether the SelMix paper has a part in it.
    """
    closing = [
        "## Licence",
        license or f"That of the base model and of the training {samples_of(data.pipeline_tag)}; none was given.",
        *["## Citation", f"```bibtex\n{CITATION}\n```"] * cite,
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join([text, *closing]) + "\n")


_TASKS: dict[str, Any] = {
    "image-classification": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "audio-classification": modeling_auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,  # before text: Wav2Vec2's
    "text-classification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
}


_AUTO_CLASSES = {
    "image-classification": "AutoModelForImageClassification",
    "audio-classification": "AutoModelForAudioClassification",
    "text-classification": "AutoModelForSequenceClassification",
}


def auto_class_of(task: str | None) -> str:
    """The class of transformers that loads a model of a task."""
    return _AUTO_CLASSES.get(task or "", "AutoModel")


def has_pipeline(task: str) -> bool:
    """Whether `transformers.pipeline` knows a task."""
    from transformers.pipelines import PIPELINE_REGISTRY  # heavy

    return task in _AUTO_CLASSES or task in PIPELINE_REGISTRY.get_supported_tasks()


def task_of(architecture: str) -> str | None:
    """The pipeline of a model class of transformers, None for a class that it does not know."""
    for task, classes in _TASKS.items():
        names = [[name] if isinstance(name, str) else name for name in classes.values()]
        if any(architecture in of_type for of_type in names):
            return task
    return None
