"""A classifier's linear head: read the features that enter it, mix them, run it on others.

SelMix mixes the pooled features in front of the last linear layer. One hook on it does all the work.

Shapes: N samples, B pairs (N = 2B), D features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from selmix_hf.models.linear import as_weight, bias_of, weight_of


class HeadError(ValueError):
    """The model has no linear head that can be mixed, or the head was used in a way it does not support."""


@dataclass
class TappedFeatures:
    """What entered the head in the latest forward pass inside `ClassifierHead.tap`."""

    inputs: list[Tensor | None]

    @property
    def features(self) -> Tensor:
        """[N, D], detached, in the dtype the model produced; two averaged heads have their features concatenated.

        Raises HeadError if no forward pass has reached the head yet.
        """
        parts = [z.flatten(1) for z in self.inputs if z is not None]
        if len(parts) < len(self.inputs):
            raise HeadError("Expected a forward pass through the head inside tap(), found none. Run the model first.")
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class ClassifierHead:
    """The linear head of a classifier: found by probing, its input features tapped or mixed.

    The hooks are registered here, once: build it before `torch.compile`. They are inert outside `tap` and `mix`, and
    leave the model's `state_dict` alone. A deep copy of the model carries an inert copy of them: call `find_head` on
    the copy to use it.

    Attributes:
        names: module path in the model; two of them if the logits are the mean of two linear layers.
        modules: the layers themselves.
        num_classes, num_features: K and D (of the concatenated features for two averaged layers).
        feature_step, bias_step: one SGD step of size 1 on the cross entropy at feature z moves the logits at z' by
            (feature_step * z.z' + bias_step) (e - p). 1 and 1 for a linear layer, 1/4 and 1/2 for two averaged ones.
        input_dropout: probability of the dropout that in train mode acts on the head's input, 0.0 without one. To
            train on stored (eval mode) features, apply it to them before they are mixed.
    """

    def __init__(
        self,
        names: Sequence[str],
        modules: Sequence[nn.Module],
        feature_shapes: Sequence[Sequence[int]],
        input_dropout: float = 0.0,
    ) -> None:
        self.names = tuple(names)
        self.modules = tuple(modules)
        self.input_dropout = input_dropout
        self._feature_shapes = [tuple(shape) for shape in feature_shapes]  # of one sample: (D,), (D, 1, 1) or (1, D)
        self._widths = [weight_of(module).shape[1] for module in self.modules]
        self.num_classes: int = weight_of(self.modules[0]).shape[0]
        self.num_features: int = sum(self._widths)
        # Each of n averaged layers gets 1/n of the gradient and gives 1/n of the logits.
        share = 1 / len(self.modules) ** 2
        self.feature_step = share
        self.bias_step = share * sum(bias_of(module) is not None for module in self.modules)
        self._mixing: Tensor | None = None
        self._index: Tensor | None = None
        self._mixed = False
        self._tapped: TappedFeatures | None = None
        self._handles = [
            module.register_forward_pre_hook(partial(self._hook, index)) for index, module in enumerate(self.modules)
        ]

    def _hook(self, index: int, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._tapped is not None:
            self._tapped.inputs[index] = args[0].detach()
        if self._mixing is None:
            return None
        return (self._mix(args[0], self.names[index]), *args[1:])

    def _mix(self, feat: Tensor, where: str) -> Tensor:
        assert self._mixing is not None
        num_pairs = self._mixing.shape[0]
        if self._index is not None:
            feat = feat[self._index]
        if feat.shape[0] != 2 * num_pairs:
            raise HeadError(
                f"Expected {2 * num_pairs} samples for {num_pairs} mixing coefficients, found {feat.shape[0]} at "
                f"'{where}'. Put the first halves of all pairs in front of the second halves."
            )
        beta = self._mixing.to(feat).reshape(-1, *[1] * (feat.ndim - 1))
        self._mixed = True
        return torch.lerp(feat[num_pairs:], feat[:num_pairs], beta)

    @property
    def weight(self) -> Tensor:
        """[K, D], detached: logits = features @ weight.T + bias. Averaged layers: [W1/2, W2/2]."""
        return torch.cat([weight_of(module).detach() for module in self.modules], dim=1) / len(self.modules)

    @property
    def bias(self) -> Tensor | None:
        """[K], detached, or None if the head has no bias."""
        biases = [bias.detach() for module in self.modules if (bias := bias_of(module)) is not None]
        return torch.stack(biases).sum(0) / len(self.modules) if biases else None

    @torch.no_grad()
    def assign(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Put other weights (K x D) and biases (K) into the layers, which stay the same objects; a head without a bias
        takes none, and averaged layers get the same."""
        num_layers, num_biases = len(self.modules), sum(bias_of(module) is not None for module in self.modules)
        for module, part_KD in zip(self.modules, torch.split(weight, self._widths, dim=1), strict=True):
            own = weight_of(module)
            own.copy_(num_layers * part_KD.reshape(own.shape))
            if (own_bias := bias_of(module)) is not None and bias is not None:
                own_bias.copy_(num_layers / num_biases * bias.reshape(own_bias.shape))

    def parameters(self) -> Iterator[nn.Parameter]:
        """The head's own parameters: one optimizer group."""
        for module in self.modules:
            yield from module.parameters()

    def logits(self, features: Tensor) -> Tensor:
        """Logits [N, K] of features [N, D], by the head's own modules and in the floating dtype of their weights; a
        surrounding `mix` or `tap` does not apply."""
        mixing, tapped = self._mixing, self._tapped
        self._mixing = self._tapped = None
        try:
            parts = zip(self.modules, torch.split(features, self._widths, dim=1), self._feature_shapes, strict=True)
            outputs: list[Tensor] = [
                module(as_weight(part, module).reshape(-1, *shape)).flatten(1) for module, part, shape in parts
            ]
        finally:
            self._mixing, self._tapped = mixing, tapped
        return outputs[0] if len(outputs) == 1 else (outputs[0] + outputs[1]) / 2

    __call__ = logits

    def mixed_logits(self, features: Tensor) -> Tensor:
        """As `logits`, but a surrounding `mix` applies: features [2B, D] give logits [B, K]."""
        return self.logits(features if self._mixing is None else self._mix(features, self.names[0]))

    @contextmanager
    def tap(self) -> Iterator[TappedFeatures]:
        """Inside, the yielded object's `features` [N, D] are what entered the head in the latest forward pass.

        Inside `mix` these are the features before mixing.
        """
        outer, self._tapped = self._tapped, TappedFeatures([None] * len(self.modules))
        try:
            yield self._tapped
        finally:
            self._tapped = outer

    @contextmanager
    def mix(self, mixing_coefficient: Tensor, index: Tensor | None = None) -> Iterator[None]:
        """Inside, the head's input [2B, D] becomes beta * first half + (1 - beta) * second half: logits are [B, K].

        Args:
            mixing_coefficient: beta [B], cast to the dtype of the features.
            index: rows [2B] of the head's input that make up the two halves, where a sample serves in several pairs.

        Raises HeadError if the batch is not 2B samples, or if no forward pass inside reached the head (for example a
        model that was compiled before the head was found).
        """
        if mixing_coefficient.ndim != 1:
            raise HeadError(f"Expected mixing coefficients of shape [B], found {list(mixing_coefficient.shape)}.")
        outer = self._mixing, self._index
        self._mixing, self._index, self._mixed = mixing_coefficient, index, False
        try:
            yield
        finally:
            self._mixing, self._index = outer
        if not self._mixed:
            raise HeadError(
                f"Expected a forward pass through '{self.names[0]}' inside mix(), found none. Run the model inside, "
                "and call find_head before torch.compile."
            )

    def remove(self) -> None:
        """Take the hooks away; `tap` and `mix` no longer work."""
        for handle in self._handles:
            handle.remove()


def logits_of(outputs: Any) -> Tensor:
    """The logits in what a model returned: a tensor, a tuple that they open, or a mapping or object that has them."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, dict):
        logits: Tensor = outputs["logits"]
    else:
        logits = outputs.logits if hasattr(outputs, "logits") else outputs[0]
    return logits


def freeze_batch_norm(model: nn.Module) -> None:
    """Put batch-norm layers in eval mode, which keeps their running statistics: batches drawn by P are not what the
    model will see."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Without gradients; afterwards training flags, buffers and torch's random state are what they were."""
    flags = [(module, module.training) for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            model.train(flags[0][1])  # some modules drop a cache of their eval mode here
            for module, training in flags:
                module.training = training
            for name, buffer in model.named_buffers():
                if name in buffers:
                    buffer.copy_(buffers[name])


def describe(model: nn.Module) -> str:
    """The model's class, and the timm architecture if there is one."""
    inner = getattr(model, "timm_model", model)
    timm_config = getattr(inner, "pretrained_cfg", None) or {}
    architecture = timm_config.get("architecture") if isinstance(timm_config, Mapping) else None
    architecture = architecture or getattr(getattr(model, "config", None), "architecture", None)
    return type(model).__name__ + (f" ({architecture})" if architecture else "")
