"""Find a classifier's linear head by running it.

Whatever the architecture, the head is the module whose output *is* the logits.

Shapes: N samples, D features, K classes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from selmix_hf.data.pixels import num_channels
from selmix_hf.models.head import ClassifierHead, HeadError, describe, undisturbed
from selmix_hf.models.linear import bias_of, matrix_of, weight_of
from selmix_hf.models.trainable import half_precision

_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout)


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
            f"{describe(model)}: expected one dropout probability in front of both averaged heads, found "
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
        raise HeadError(f"{describe(model)}: expected a batch with tensors, found {', '.join(inputs) or 'nothing'}.")
    modules = dict(model.named_modules())
    for name in wanted or ():
        if name not in modules or matrix_of(modules[name]) is None:
            found = f"a {type(modules[name]).__name__}" if name in modules else "no such module"
            raise HeadError(
                f"{describe(model)}: expected head_name '{name}' to be a linear layer or a 1x1 convolution, "
                f"found {found}. The names are those of model.named_modules()."
            )
    layers: dict[str, _Layer] = {}
    output_shapes: dict[str, list[list[int]]] = {}
    watch = _DropoutWatch()

    def hook(name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, Tensor) or not args or not isinstance(args[0], Tensor):
            return
        output_shapes.setdefault(name, []).append(list(output.shape))
        num_outputs, num_inputs = weight_of(module).shape
        one_vector = output.numel() == num_samples * num_outputs and args[0].numel() == num_samples * num_inputs
        if one_vector and output.shape[0] == args[0].shape[0] == num_samples:
            layers[name] = _Layer(name, module, args[0], output, watch.in_front_of(args[0]))

    handles = [
        module.register_forward_hook(partial(hook, name))
        for name, module in modules.items()
        if matrix_of(module) is not None
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
            f"{describe(model)}: expected logits of shape [{num_samples}, classes], found "
            f"{'none' if logits is None else list(logits.shape)}. SelMix needs a classifier with one label a sample."
        )
    if not bool(logits.isfinite().all()):
        raise HeadError(f"{describe(model)}: {_why_not_finite(model)}")
    return _Record(logits, layers, output_shapes)


def _why_not_finite(model: nn.Module) -> str:
    bad = [name for name, weight in model.state_dict().items() if not bool(weight.isfinite().all())]
    if bad:
        return (
            f"expected finite weights, found NaN or infinity in {len(bad)} tensors, the first {bad[0]!r}: training "
            "diverged before they were saved. Load an earlier checkpoint."
        )
    return "expected finite logits, found NaN or infinity though all weights are finite: look at the inputs."


def _outputs(model: nn.Module, inputs: Mapping[str, Any]) -> Any:
    try:
        return model(**inputs)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        found = ", ".join(f"{name} {list(getattr(value, 'shape', []))}" for name, value in inputs.items())
        raise HeadError(
            f"{describe(model)} cannot be run on a batch of {found}: {type(error).__name__}, {error}. "
            f"{_why_not_run(model, inputs)}"
        ) from error


def _why_not_run(model: nn.Module, inputs: Mapping[str, Any]) -> str:
    """The likely cause, and what to do."""
    name = getattr(model, "main_input_name", "not known")
    given, half = inputs.get(name), half_precision(model)
    if half is not None:
        return f"Its weights are {half}, its inputs are not: call model.float()."
    if name == "pixel_values" and given is None:
        return (
            "Its main input is 'pixel_values', and no column has images: cast_column(column, datasets.Image()) makes "
            "them of files, or give a data_collator that makes what the model takes."
        )
    if isinstance(given, Tensor) and given.ndim == 4 and given.shape[1] != (channels := num_channels(model)):
        return f"It takes images of {channels} channels, found {given.shape[1]}: the processor must make as many."
    return (
        f"Its main input is {name!r}: give the processing_class or a data_collator that makes what the model takes, "
        "and drop other columns by remove_columns."
    )


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
        same_width = weight_of(first.module).shape == weight_of(second.module).shape
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
        bias = bias_of(module)
        linear = F.linear(
            args[0].flatten(1).float(), weight_of(module).float(), None if bias is None else bias.float()
        )
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


def _refusal(model: nn.Module, record: _Record, wanted: list[str] | None, problems: list[str]) -> str:
    """The sentence for a model without a head: the nearest problem, or the layers that came into question."""
    if problems:
        return f"{describe(model)}: {problems[0]}"
    num_samples, num_classes = record.logits.shape
    shapes = {name: x for name, x in record.output_shapes.items() if wanted is None or name in wanted}
    shapes = {name: x for name, x in shapes.items() if weight_of(model.get_submodule(name)).shape[0] == num_classes}
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
        f"{describe(model)}: expected one linear layer whose output is the logits [{num_samples}, {num_classes}], "
        f"or the mean of two layers of equal width; found layers with {num_classes} outputs: {found}; {reason}. Give "
        "the model a linear head on pooled features, or name the head with head_name if it is not among these."
    )
