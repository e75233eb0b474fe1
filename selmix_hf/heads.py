"""Find a classifier's linear head, read the features that enter it, mix them, run it on others.

SelMix mixes the pooled features in front of the last linear layer. Whatever the architecture, that layer is found by
running the model once: it is the module whose output *is* the logits. One hook on it then does all the work.

Shapes: N samples, B pairs (N = 2B), D features, K classes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout)


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
        self._widths = [_weight(module).shape[1] for module in self.modules]
        self.num_classes: int = _weight(self.modules[0]).shape[0]
        self.num_features: int = sum(self._widths)
        # Each of n averaged layers gets 1/n of the gradient and gives 1/n of the logits.
        share = 1 / len(self.modules) ** 2
        self.feature_step = share
        self.bias_step = share * sum(_bias(module) is not None for module in self.modules)
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
        return torch.cat([_weight(module).detach() for module in self.modules], dim=1) / len(self.modules)

    @property
    def bias(self) -> Tensor | None:
        """[K], detached, or None if the head has no bias."""
        biases = [bias.detach() for module in self.modules if (bias := _bias(module)) is not None]
        return torch.stack(biases).sum(0) / len(self.modules) if biases else None

    @torch.no_grad()
    def assign(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Put other weights (K x D) and biases (K) into the layers, which stay the same objects; a head without a bias
        takes none, and averaged layers get the same."""
        num_layers, num_biases = len(self.modules), sum(_bias(module) is not None for module in self.modules)
        for module, part_KD in zip(self.modules, weight.split(self._widths, dim=1), strict=True):
            own = _weight(module)
            own.copy_(num_layers * part_KD.reshape(own.shape))
            if (own_bias := _bias(module)) is not None and bias is not None:
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
            parts = zip(self.modules, features.split(self._widths, dim=1), self._feature_shapes, strict=True)
            outputs = [
                module(_as_weight(part, module).reshape(-1, *shape)).flatten(1) for module, part, shape in parts
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
        return outputs["logits"]
    return outputs.logits if hasattr(outputs, "logits") else outputs[0]


def freeze_batch_norm(model: nn.Module) -> None:
    """Put batch-norm layers in eval mode, which keeps their running statistics: batches drawn by P are not what the
    model will see."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def parameter_groups(
    model: nn.Module,
    head: ClassifierHead,
    decaying: set[str],
    learning_rate: float,
    backbone_learning_rate: float,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """Groups for an optimizer: the head's first, each of head and backbone with and without weight decay.

    Args:
        decaying: names of the parameters that decay. Parameters that need no gradient are left out.
    """
    in_head = {id(parameter) for parameter in head.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) not in in_head, name not in decaying), []).append(parameter)
    if not groups:
        raise HeadError(
            f"{_describe(model)}: no weight requires a gradient, so there is nothing to train. Call "
            "model.requires_grad_(True), or set freeze_backbone=True to train the head alone."
        )
    return [
        {
            "params": groups[of_backbone, exempt],
            "lr": backbone_learning_rate if of_backbone else learning_rate,
            "weight_decay": 0.0 if exempt else weight_decay,
        }
        for of_backbone, exempt in sorted(groups)
    ]


def find_head(
    model: nn.Module, inputs: Mapping[str, Tensor], *, head_name: str | Sequence[str] | None = None
) -> ClassifierHead:
    """Find the linear layer whose output is the logits of `model(**inputs)`, or the two layers whose mean is.

    The model is run three times without gradients: once to see what its layers return, then in eval and in train mode
    with random features and random outputs put into the layer found. Its logits must be W z + b of those features and
    the model must return those outputs untouched. Modes, buffers and torch's random state are left as they were.

    Args:
        inputs: a batch of at least one sample, on the model's device. Its first tensor gives the number of samples.
        head_name: module path(s) of the head, where the search should not choose. The same checks apply.

    Raises HeadError, with the reason, if there is no such layer: cosine or scaled heads, heads applied to every token,
    layers used twice, sums of several heads, models that return something else in train mode.
    """
    model = getattr(model, "_orig_mod", model)
    wanted = None if head_name is None else [head_name] if isinstance(head_name, str) else list(head_name)
    with undisturbed(model):
        record = _record(model, inputs, wanted)
        problems: list[str] = []
        for layers in _proposals(record, wanted):
            problem = _trial(model, inputs, layers, train=False) or _trial(model, inputs, layers, train=True)
            if problem is None:
                break
            problems.append(problem)
        else:
            raise HeadError(_refusal(model, record, wanted, problems))
    dropouts = {layer.dropout for layer in layers}
    if len(dropouts) > 1:
        raise HeadError(
            f"{_describe(model)}: expected one dropout probability in front of both averaged heads, found "
            f"{sorted(dropouts)}. Give them the same."
        )
    return ClassifierHead(
        [layer.name for layer in layers],
        [layer.module for layer in layers],
        [layer.input.shape[1:] for layer in layers],
        input_dropout=dropouts.pop(),
    )


@dataclass
class _Layer:
    """A layer that returned one vector for each sample: it may be the head."""

    name: str
    module: nn.Module
    input: Tensor
    output: Tensor
    dropout: float  # probability of the dropout in front of it


@dataclass
class _Record:
    """What a forward pass showed."""

    logits: Tensor  # [N, K]
    layers: dict[str, _Layer]
    output_shapes: dict[str, list[list[int]]]  # of every linear layer that was called, one for each call


def _matrix(module: nn.Module) -> Tensor | None:
    """[K, D] for a module that can be a linear head, None for others."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or isinstance(module, nn.Embedding) or not _owns_weight(module):
        return None
    if isinstance(module, nn.Conv2d):
        return weight.flatten(1) if module.kernel_size == (1, 1) and module.groups == 1 else None
    return weight if weight.ndim == 2 else None


def _owns_weight(module: nn.Module) -> bool:
    """False for a wrapper that only passes on the weight of the layer inside: that layer is the head, not the wrapper,
    whose parameters may be those of several layers."""
    own = (module._parameters, module._buffers, vars(module))
    return hasattr(type(module), "weight") or any("weight" in place for place in own)


def _weight(module: nn.Module) -> Tensor:
    weight = _matrix(module)
    assert weight is not None
    return weight


def _as_weight(features: Tensor, module: nn.Module) -> Tensor:
    dtype = _weight(module).dtype
    return features.to(dtype) if dtype.is_floating_point else features


def _bias(module: nn.Module) -> Tensor | None:
    return getattr(module, "bias", None)


class _DropoutWatch(TorchFunctionMode):
    """Remembers the latest dropout calls, as modules or as functions; two, for two averaged heads."""

    def __init__(self) -> None:
        super().__init__()
        self.latest: deque[tuple[float, Tensor]] = deque(maxlen=2)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func in _DROPOUTS and (p := args[1] if len(args) > 1 else kwargs.get("p", 0.5)) > 0:
            output = output.clone()  # in eval mode it is its input: a copy tells what came out from what went in
            self.latest.append((p, output))
        return output

    def in_front_of(self, feat: Tensor) -> float:
        storage = feat.untyped_storage().data_ptr()
        return float(next((p for p, output in self.latest if output.untyped_storage().data_ptr() == storage), 0.0))


def _record(model: nn.Module, inputs: Mapping[str, Tensor], wanted: list[str] | None) -> _Record:
    """Run the model in eval mode and note what every possible head took and returned."""
    num_samples = next((value.shape[0] for value in inputs.values() if isinstance(value, Tensor)), None)
    if num_samples is None:
        raise HeadError(f"{_describe(model)}: expected a batch with tensors, found {', '.join(inputs) or 'nothing'}.")
    modules = dict(model.named_modules())
    for name in wanted or ():
        if name not in modules or _matrix(modules[name]) is None:
            found = f"a {type(modules[name]).__name__}" if name in modules else "no such module"
            raise HeadError(
                f"{_describe(model)}: expected head_name '{name}' to be a linear layer or a 1x1 convolution, found "
                f"{found}. The names are those of model.named_modules()."
            )
    layers: dict[str, _Layer] = {}
    output_shapes: dict[str, list[list[int]]] = {}
    watch = _DropoutWatch()

    def hook(name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, Tensor) or not args or not isinstance(args[0], Tensor):
            return
        output_shapes.setdefault(name, []).append(list(output.shape))
        num_outputs, num_inputs = _weight(module).shape
        one_vector = output.numel() == num_samples * num_outputs and args[0].numel() == num_samples * num_inputs
        if one_vector and output.shape[0] == args[0].shape[0] == num_samples:
            layers[name] = _Layer(name, module, args[0], output, watch.in_front_of(args[0]))

    handles = [
        module.register_forward_hook(partial(hook, name))
        for name, module in modules.items()
        if _matrix(module) is not None
    ]
    model.eval()
    try:
        with watch:
            logits = _found_logits(_outputs(model, inputs))
    finally:
        for handle in handles:
            handle.remove()
    if logits is None or logits.shape[0] != num_samples:
        raise HeadError(
            f"{_describe(model)}: expected logits of shape [{num_samples}, classes], found "
            f"{'none' if logits is None else list(logits.shape)}. SelMix needs a classifier with one label a sample."
        )
    return _Record(logits, layers, output_shapes)


def _outputs(model: nn.Module, inputs: Mapping[str, Any]) -> Any:
    try:
        return model(**inputs)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        found = ", ".join(f"{name} {list(getattr(value, 'shape', []))}" for name, value in inputs.items())
        raise HeadError(
            f"{_describe(model)} cannot be run on a batch of {found}: {type(error).__name__}, {error}. Its main input "
            f"is {getattr(model, 'main_input_name', 'not known')!r}: give the processing_class or a data_collator "
            "that makes what the model takes, and drop other columns by remove_columns."
        ) from error


def _found_logits(outputs: Any) -> Tensor | None:
    """The logits [N, K] in what a model returned: a tensor, a tuple, or an object with `logits`."""
    logits = getattr(outputs, "logits", outputs)
    if isinstance(logits, tuple | list):  # a loss, which has no dimension, may come first
        logits = next((x for x in logits if isinstance(x, Tensor) and x.ndim == 2), None)
    return logits if isinstance(logits, Tensor) and logits.ndim == 2 else None


def _proposals(record: _Record, wanted: list[str] | None) -> Iterator[tuple[_Layer, ...]]:
    """Layers that returned the logits, outermost first, then pairs of equal width whose mean is the logits."""
    logits = record.logits
    layers = [x for x in record.layers.values() if x.output.flatten(1).shape == logits.shape]
    layers = [x for x in layers if len(record.output_shapes[x.name]) == 1 and (wanted is None or x.name in wanted)]
    for layer in sorted(layers, key=lambda x: x.name.count(".")):
        if wanted in (None, [layer.name]) and _close(layer.output.flatten(1), logits):
            yield (layer,)
    for first, second in combinations(layers, 2):
        same_width = _weight(first.module).shape == _weight(second.module).shape
        if same_width and _close((first.output + second.output).flatten(1) / 2, logits):
            yield (first, second)


def _trial(model: nn.Module, inputs: Mapping[str, Tensor], layers: tuple[_Layer, ...], *, train: bool) -> str | None:
    """Feed the layers random features, return random outputs in their place: None if all is well, else the problem."""
    mode = "train" if train else "eval"
    generator = torch.Generator().manual_seed(0)
    names = " and ".join(f"'{layer.name}'" for layer in layers)
    calls: list[str] = []
    problems: list[str] = []
    replies: list[Tensor] = []

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        feat = torch.randn(args[0].shape, generator=generator).to(args[0])
        return (feat, *args[1:])

    def after(layer: _Layer, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        calls.append(layer.name)
        bias = _bias(module)
        linear = F.linear(args[0].flatten(1).float(), _weight(module).float(), None if bias is None else bias.float())
        if not _close(output.flatten(1), linear):
            problems.append(
                f"expected '{layer.name}' to compute W z + b, found a {type(module).__name__} that in {mode} mode "
                "returns something else (a cosine or scaled head?). Replace it with nn.Linear."
            )
        replies.append(torch.randn(output.shape, generator=generator).to(output))
        return replies[-1]

    handles = [layer.module.register_forward_pre_hook(before) for layer in layers]
    handles += [layer.module.register_forward_hook(partial(after, layer)) for layer in layers]
    model.train(train)
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            module.eval()  # as in training with SelMix: batch-norm layers stay in eval mode
    try:
        logits = _found_logits(model(**inputs))
    finally:
        for handle in handles:
            handle.remove()
    if problems:
        return problems[0]
    if sorted(calls) != sorted(layer.name for layer in layers):
        return f"expected one call of {names} in {mode} mode, found {len(calls)}: a head must be used once in a pass."
    mean = torch.stack(replies).flatten(2).mean(0).flatten(1)
    if logits is None or logits.shape != mean.shape or not _close(logits, mean):
        return (
            f"expected the model to return the output of {names} as its logits, found that in {mode} mode it returns "
            "something else. Switch off what comes after the head (auxiliary or distillation heads, scaling)."
        )
    return None


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal up to the rounding of the coarser dtype; over the whole matrix, so that small entries do not matter."""
    coarse = any(x.dtype in (torch.float16, torch.bfloat16) for x in (a, b))
    a, b = a.double() if a.device.type == "cpu" else a.float(), b.double() if b.device.type == "cpu" else b.float()
    return bool((a - b).norm() <= (3e-2 if coarse else 2e-3) * b.norm())


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


def _describe(model: nn.Module) -> str:
    """The model's class, and the timm architecture if there is one."""
    inner = getattr(model, "timm_model", model)
    timm_config = getattr(inner, "pretrained_cfg", None) or {}
    architecture = timm_config.get("architecture") if isinstance(timm_config, Mapping) else None
    architecture = architecture or getattr(getattr(model, "config", None), "architecture", None)
    return type(model).__name__ + (f" ({architecture})" if architecture else "")


def _refusal(model: nn.Module, record: _Record, wanted: list[str] | None, problems: list[str]) -> str:
    """The sentence for a model without a head: the nearest problem, or the layers that came into question."""
    if problems:
        return f"{_describe(model)}: {problems[0]}"
    num_samples, num_classes = record.logits.shape
    shapes = {name: x for name, x in record.output_shapes.items() if wanted is None or name in wanted}
    shapes = {name: x for name, x in shapes.items() if _weight(model.get_submodule(name)).shape[0] == num_classes}
    found = ", ".join(f"'{name}' {' and '.join(map(str, x))}" for name, x in shapes.items()) or "none"
    if not shapes:
        reason = "the head is not a linear layer"
    elif any(len(x) > 1 for x in shapes.values()):
        reason = "a head that is called more than once in a pass cannot be mixed"
    elif not record.layers.keys() & shapes.keys():
        reason = "a head that is applied to every token or position, before pooling, cannot be mixed"
    else:
        reason = "their outputs are combined or changed before they become the logits"
    return (
        f"{_describe(model)}: expected one linear layer whose output is the logits [{num_samples}, {num_classes}], or "
        f"the mean of two layers of equal width; found layers with {num_classes} outputs: {found}; {reason}. Give the "
        "model a linear head on pooled features, or name the head with head_name if it is not among these."
    )
