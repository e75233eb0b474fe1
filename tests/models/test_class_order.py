"""The outputs of a classifier in the order of the data's classes."""

import pytest
import tiny
import torch

from selmix_hf.data.classes import set_class_names
from selmix_hf.models.class_order import number_outputs


@pytest.mark.parametrize("kind", ["vit", "deit-distilled", "test_byobnet"])
def test_logits_follow_the_names(kind, caplog):
    model = tiny.model(kind).eval()
    set_class_names(model.config, ["Grey", "blue", "green", "red"])
    side = 32 if kind.startswith("test") else tiny.SIDE
    inputs = {"pixel_values": torch.randn(2, 3, side, side)}
    before = model(**inputs).logits
    number_outputs(model, tiny.NAMES, inputs)
    assert torch.allclose(model(**inputs).logits, before[:, [3, 2, 1, 0]], atol=1e-6)
    assert list(model.config.id2label.values()) == list(tiny.NAMES) and "put in the order of the data" in caplog.text
    number_outputs(model, tiny.NAMES, inputs)
    assert torch.allclose(model(**inputs).logits, before[:, [3, 2, 1, 0]], atol=1e-6)


def test_names_that_are_not_known():
    model = tiny.model("vit")
    set_class_names(model.config, ["green", "red", "blue", "sky"])
    with pytest.raises(
        ValueError, match="the checkpoint and the data number their classes differently: .*'grey' is not"
    ):
        number_outputs(model, tiny.NAMES, {"pixel_values": torch.randn(2, 3, 16, 16)})
