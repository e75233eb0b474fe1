"""The small card of a head that is pushed without its backbone."""

from __future__ import annotations

from collections.abc import Sequence

from huggingface_hub import ModelCard, ModelCardData

from selmix_hf.hub.card_frame import PAPER, assemble, task_of

_MOST_NAMES = 100  # beyond, config.json has them


def render_head(
    repo_id: str,
    architecture: str,
    base_model: str,
    base_revision: str | None,
    class_names: Sequence[str],
    license: str | None = None,
    revision: str | None = None,
) -> ModelCard:
    """The card of a head on the Hub.

    Args:
        repo_id, revision: where the head is pushed to.
        architecture, base_model, base_revision, class_names (K): see `saved_head.SelMixHead`.
        license: an identifier of the Hub.
    """
    data = ModelCardData(
        license=license,
        library_name="selmix_hf",
        pipeline_tag=task_of(architecture),
        tags=["selmix", "long-tailed"],
        base_model=base_model,
    )
    at = f", revision={revision!r}" if revision else ""
    names = ", ".join(class_names[:_MOST_NAMES])
    rest = len(class_names) - _MOST_NAMES
    parts = [
        f"# {repo_id}",
        f"A classifier's head, trained on the frozen backbone of a `{architecture}` with `selmix_hf`, which "
        f"implements {PAPER}. It holds the last layer alone; the backbone comes from the base model.",
        f"- base model: `{base_model}`\n- revision: `{base_revision or 'main'}`",
        "## Use",
        f"```python\nfrom selmix_hf import SelMixHead\n\nhead = SelMixHead.from_pretrained({repo_id!r}{at})\n"
        "model = head.load_base()  # checks that the backbone is the one the head was trained on\n```",
        f"## Classes\n\n{len(class_names)}: {names}" + (f" and {rest} more, in config.json." if rest > 0 else "."),
    ]
    return assemble(data, "\n\n".join(parts), license)
