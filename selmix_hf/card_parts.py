"""What every card on the Hub shares: its frame, the licence and the citation."""

from __future__ import annotations

from collections.abc import Sequence

from huggingface_hub import ModelCard, ModelCardData

PAPER = "[SelMix](https://arxiv.org/abs/2403.18301)"

CITATION = """@inproceedings{ramasubramanian2024selmix,
  title = {Selective Mixup Fine-Tuning for Optimizing Non-Decomposable Objectives},
  author = {Ramasubramanian, Shrinivas and Rangwani, Harsh and Takemori, Sho and Samanta, Kunal and Umeda, Yuhei and
            Radhakrishnan, Venkatesh Babu},
  booktitle = {International Conference on Learning Representations},
  year = {2024},
  url = {https://arxiv.org/abs/2403.18301}
}"""


def assemble(data: ModelCardData, parts: Sequence[str], license: str | None) -> ModelCard:
    """The card: metadata, the parts, and how to use and cite what it describes.

    Args:
        data: the metadata.
        parts: Markdown blocks, the title first.
        license: an identifier of the Hub, or None.
    """
    closing = [
        "## Licence",
        license or "That of the base model and of the training images; none was given.",
        "## Citation",
        f"```bibtex\n{CITATION}\n```",
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join([*parts, *closing]) + "\n")
