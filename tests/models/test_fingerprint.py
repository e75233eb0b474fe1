"""A backbone is known by all of its weights but the head's."""

import torch
from passes import look
from torch import nn

from selmix_hf.models.fingerprint import backbone_fingerprint


def test_the_head_is_no_part_of_the_key():
    at = look()
    before = backbone_fingerprint(at.model, at.head.parameters())
    next(at.head.parameters()).data += 1
    assert backbone_fingerprint(at.model, at.head.parameters()) == before
    at.model.convnext.embeddings.patch_embeddings.weight.data += 1
    assert backbone_fingerprint(at.model, at.head.parameters()) != before


def test_values_names_shapes_and_dtypes_are_parts_of_it():
    """Of a buffer too; all but the first value here are the same bytes."""

    def model(tensor, name="a"):
        made = nn.Module()
        made.register_buffer(name, tensor)
        return made

    zeros = torch.zeros(2, 3)
    models = [model(zeros + 1), model(zeros), model(zeros, "b"), model(zeros.view(3, 2)), model(zeros.int())]
    assert len({backbone_fingerprint(one, []) for one in models}) == 5
    assert backbone_fingerprint(model(zeros.clone()), []) == backbone_fingerprint(models[1], [])
