"""Wide residual networks for small images, as timm models: what semi-supervised papers train on CIFAR.

Importing this module registers `wrn_28_2`, `wrn_28_8` and `wrn_37_2`, after which `timm.create_model` and
`TimmWrapperForImageClassification` know them by name. timm itself does not have them: whoever loads such a checkpoint
with plain transformers, its pipelines included, imports this module first, or gets an ImportError that names the
architecture. `selmix_hf.models.loading`, the recipes and `SelMixHead.load_base` import it by themselves.

Shape suffixes: N images, C channels, H x W pixels, D features, K classes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn

_SLOPE = 0.1  # of the leaky ReLU, and a slow batch norm: choices of Oliver et al. 2018 (arXiv 1804.09170) and FixMatch
_NORM: dict[str, Any] = {"momentum": 0.001, "eps": 0.001}


class WideBasicBlock(nn.Module):
    """Two 3 x 3 convolutions, each after batch norm and activation, beside a shortcut.

    Zagoruyko and Komodakis 2016 (arXiv 1605.07146), the block B(3, 3). Where the shape changes, the shortcut is a
    convolution (1 x 1), of the activated input in the first group and of the input itself in the others: FixMatch's
    way (theirs activates it always).
    """

    def __init__(self, in_chs: int, out_chs: int, stride: int, activated_shortcut: bool) -> None:
        super().__init__()
        self.activated_shortcut = activated_shortcut
        self.norm1, self.norm2 = nn.BatchNorm2d(in_chs, **_NORM), nn.BatchNorm2d(out_chs, **_NORM)
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, 1, 1, bias=False)
        changes = stride > 1 or in_chs != out_chs
        self.shortcut = nn.Conv2d(in_chs, out_chs, 1, stride, bias=False) if changes else None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        active_NCHW = F.leaky_relu(self.norm1(x_NCHW), _SLOPE)
        kept_NCHW = x_NCHW
        if self.shortcut is not None:
            kept_NCHW = self.shortcut(active_NCHW if self.activated_shortcut else x_NCHW)
        added_NCHW: Tensor = self.conv2(F.leaky_relu(self.norm2(self.conv1(active_NCHW)), _SLOPE))
        return added_NCHW + kept_NCHW


class WideResNet(nn.Module):
    """Three groups of `WideBasicBlock`s, 16, 32 and 64 channels times the width, at full, half and quarter resolution.

    Zagoruyko and Komodakis 2016 (arXiv 1605.07146), table 1.

    Args:
        depth: 6 n + 4 with n blocks a group (WRN-28), or 9 n + 1 for `num_groups` = 4 (WRN-37 for 96 px images).
        width: k of WRN-depth-k.
        num_classes: K; 0 for features alone.
        in_chans: channels of the images.
        num_groups: 3, or 4 with one group of 128 k channels more at an eighth of the resolution.
        drop_rate: dropout before the head.
        global_pool: "avg", or "" for none.
    """

    def __init__(
        self,
        depth: int = 28,
        width: int = 2,
        num_classes: int = 10,
        in_chans: int = 3,
        num_groups: int = 3,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        num_blocks, rest = divmod(depth - (4 if num_groups == 3 else 1), 6 if num_groups == 3 else 9)
        if rest or num_blocks < 1:
            raise ValueError(f"depth must be 6 n + 4 (or 9 n + 1 with four groups), found {depth}.")
        self.num_classes, self.drop_rate = num_classes, drop_rate
        channels = [16, *(16 * width * 2**group for group in range(num_groups))]
        self.num_features = self.head_hidden_size = channels[-1]
        self.stem = nn.Conv2d(in_chans, channels[0], 3, 1, 1, bias=False)
        self.groups = nn.Sequential(
            *(
                nn.Sequential(
                    *(
                        WideBasicBlock(
                            inputs if block == 0 else outputs, outputs, 2 if group and block == 0 else 1, group == 0
                        )
                        for block in range(num_blocks)
                    )
                )
                for group, (inputs, outputs) in enumerate(pairwise(channels))
            )
        )
        self.norm = nn.BatchNorm2d(channels[-1], **_NORM)
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=True)
        self.fc = nn.Linear(channels[-1], num_classes) if num_classes else nn.Identity()
        self.init_weights()

    def init_weights(self) -> None:
        """Draw convolutions (He et al. 2015) and head (Glorot) anew; batch norms stay.

        A `TimmWrapperForImageClassification` that is made from a config has put its own, N(0, 0.02^2), in their place:
        call this on its `timm_model` before training from random weights.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", a=_SLOPE)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head, as timm's models have it."""
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=True)
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """Activated features before pooling, N x D x H/4 x W/4; an eighth with four groups."""
        return F.leaky_relu(self.norm(self.groups(self.stem(x_NCHW))), _SLOPE)

    def forward_head(self, x_NDHW: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits N x K, or with `pre_logits` pooled features N x D."""
        pooled_ND = F.dropout(self.global_pool(x_NDHW), self.drop_rate, self.training)
        return pooled_ND if pre_logits else torch.as_tensor(self.fc(pooled_ND))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x_NCHW))


def _create(variant: str, pretrained: bool, kwargs: dict[str, Any], **own: Any) -> WideResNet:
    model: WideResNet = build_model_with_cfg(WideResNet, variant, pretrained, **{**own, **kwargs})
    return model


def _cfg(side: int, reduction: int = 4) -> dict[str, Any]:
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10's training images
    shape = {"input_size": (3, side, side), "pool_size": (side // reduction, side // reduction), "crop_pct": 1.0}
    return {"url": "", "num_classes": 10, **shape, "interpolation": "bicubic", "mean": mean, "std": std} | {
        "first_conv": "stem",
        "classifier": "fc",
    }


default_cfgs = {"wrn_28_2": _cfg(32), "wrn_28_8": _cfg(32), "wrn_37_2": _cfg(96, 8)}


@register_model
def wrn_28_2(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """WRN-28-2, 1.5 million weights: CIFAR-10 in FixMatch (Sohn et al. 2020) and SelMix."""
    return _create("wrn_28_2", pretrained, kwargs)


@register_model
def wrn_28_8(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """WRN-28-8, 23.4 million weights: CIFAR-100 in FixMatch."""
    return _create("wrn_28_8", pretrained, kwargs, width=8)


@register_model
def wrn_37_2(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """WRN-37-2, 5.9 million weights: STL-10's 96 px images in FixMatch."""
    return _create("wrn_37_2", pretrained, kwargs, depth=37, num_groups=4)
