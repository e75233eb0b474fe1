"""The outputs of a classifier in the order of a dataset's classes.

Shape suffixes: K classes, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.utils import logging

from selmix_hf.data.classes import set_class_names
from selmix_hf.data.labels import excerpt
from selmix_hf.data.numbering import at_two_numbers, numbers_by_name
from selmix_hf.models.head_search import find_head

logger = logging.get_logger(__name__)


def number_outputs(model: Any, class_names: Sequence[str], probe: dict[str, Any]) -> None:
    """Put the rows of a model's head in the order of the names, where its own names stand in another; this is said.

    Args:
        model: of transformers, whose config names its classes.
        class_names: K, in the order that its outputs get.
        probe: model inputs, by which the head is found.

    Raises:
        ValueError: some of its names stand at other numbers, and some are unknown.
        HeadError: no head.
    """
    own = [str(model.config.id2label[k]) for k in range(len(class_names))]
    if not at_two_numbers(own, class_names):
        return
    try:
        rows_K = torch.from_numpy(numbers_by_name(own, class_names))
    except ValueError as error:
        raise ValueError(f"the checkpoint and the data number their classes differently: {error}.") from error
    logger.warning(
        f"the checkpoint names {excerpt(own)}, the data {excerpt(class_names)}: its outputs are put in the order of "
        "the data."
    )
    head = find_head(model, probe)
    head.assign(head.weight[rows_K], None if head.bias is None else head.bias[rows_K])
    set_class_names(model.config, class_names)
