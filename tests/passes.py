"""A pass over fifteen images by a tiny model."""

import tiny

from selmix_hf import ImageCollator, find_head
from selmix_hf.features.dataset_pass import DatasetPass

DATA = tiny.images((5, 4, 3, 3))
COLLATOR = ImageCollator(transform=tiny.to_tensor)
PIXELS = COLLATOR(list(DATA))["pixel_values"]


def look(kind="convnext", **options):
    model = tiny.model(kind)
    head = find_head(model, {"pixel_values": PIXELS[:2]})
    return DatasetPass(model, head, **{"batch_size": 4, **options})
