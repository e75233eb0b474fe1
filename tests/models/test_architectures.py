"""Which architectures need an import before they can be built."""

import tiny
from timm import list_models

from selmix_hf.models.architectures import home_of_architecture, register_architecture
from selmix_hf.models.loading import load_for_classes


def test_which_module_to_import():
    names = set(list_models(module="wide_resnet"))
    assert names == {"wrn_28_2", "wrn_28_8", "wrn_37_2"}
    config = load_for_classes("wrn_28_2", tiny.NAMES)[0].config
    for name in names:
        config.architecture = name
        assert home_of_architecture(config) == "selmix_hf.wide_resnet"
    for other in (tiny.timm_model("test_convnext").config, tiny.model("vit").config, None):
        assert home_of_architecture(other) is None
        register_architecture(other)
