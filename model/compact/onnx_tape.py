"""Differentiable operators as ONNX nodes: each says how to go back through it; `model.compact.onnx_backward` does so.

The rules are those of reverse mode (Baydin et al. 2018, "Automatic Differentiation in Machine Learning: a Survey",
https://arxiv.org/abs/1502.05767), for the operators that `model.compact.question_graphs` uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor, nn

from model.compact.onnx_builder import Attribute, Graph

Dim = int | str


class Var(NamedTuple):
    """A tensor of the graph; a size that is known only at run time has a name in place of a number."""

    name: str
    shape: tuple[Dim, ...]


Rule = Callable[["Tape", Var], Var]
"""From the tape and the gradient of a step's output to that of one of its inputs."""


class Step(NamedTuple):
    """An operator's output, and the rules of those of its inputs that have a gradient, by their names."""

    output: Var
    rules: list[tuple[str, Rule]]


class Tape(Graph):
    """A graph whose steps know their gradients. Operators take and return `Var`, and broadcast as numpy does."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__()
        self.prefix = prefix
        self.steps: list[Step] = []

    def given(self, name: str, shape: Sequence[Dim], dtype: DTypeLike = np.float32) -> Var:
        """An input."""
        return Var(self.input(name, dtype), tuple(shape))

    def fixed(self, name: str, values: Tensor | float | Sequence[float]) -> Var:
        """A float32 constant of the shape of ``values``."""
        array = np.asarray(values.detach().float().cpu() if isinstance(values, Tensor) else values, np.float32)
        return Var(self.constant(name, array, np.float32), array.shape)

    def node(
        self,
        kind: str,
        inputs: Sequence[Var | str],
        shape: Iterable[Dim],
        rules: Mapping[int, Rule] | None = None,
        *,
        contrib: bool = False,
        dtype: DTypeLike = np.float32,
        **attributes: Attribute,
    ) -> Var:
        """Append an operator. ``rules``: for the inputs that have a gradient, by their index."""
        names = [x if isinstance(x, str) else x.name for x in inputs]
        output = f"{self.prefix}{kind}.{len(self.nodes)}"
        made = Var(self.add(kind, names, output, contrib=contrib, **attributes), tuple(shape))
        if dtype is not np.float32:
            self.dtypes[made.name] = dtype
        self.steps.append(Step(made, [(names[i], rule) for i, rule in (rules or {}).items()]))
        return made

    def whole(self, values: Sequence[int]) -> Var:
        """A constant of integers."""
        name = self.constant(f"{self.prefix}whole.{'.'.join(map(str, values))}", values, np.int64)
        return Var(name, (len(values),))

    # Shapes

    def shape_of(self, x: Var) -> Var:
        """The sizes of ``x`` at run time."""
        return self.node("Shape", [x], (len(x.shape),), dtype=np.int64)

    def reshape(self, x: Var, sizes: Sequence[int] | Var, shape: Sequence[Dim]) -> Var:
        """``sizes``: those of `shape_of`, or numbers, where 0 copies the input's size and -1 is what remains."""
        given = sizes if isinstance(sizes, Var) else self.whole(sizes)

        def back(b: Tape, g: Var) -> Var:
            return b.reshape(b.expand(g, made), _sizes(x.shape, made.shape) or b.shape_of(x), x.shape)

        made = self.node("Reshape", [x, given], shape, {0: back})
        return made

    def expand(self, x: Var, like: Var) -> Var:
        """``x`` in the shape of ``like``, to which it can be broadcast."""
        return x if x.shape == like.shape else self.node("Expand", [x, self.shape_of(like)], like.shape)

    def transpose(self, x: Var, order: Sequence[int]) -> Var:
        """Axes in another order."""
        back = [int(i) for i in np.argsort(order)]
        shape = [x.shape[i] for i in order]
        return self.node("Transpose", [x], shape, {0: lambda b, g: b.transpose(g, back)}, perm=list(order))

    def turned(self, x: Var) -> Var:
        """The last two axes swapped."""
        *before, last = range(len(x.shape))
        return self.transpose(x, [*before[:-1], last, before[-1]])

    def part(self, x: Var, axis: int, start: int, end: int | None = None) -> Var:
        """``x[.., start:end, ..]`` along ``axis``."""
        size = x.shape[axis]
        last = end if end is not None else size
        shape = list(x.shape)
        shape[axis] = last - start if isinstance(last, int) else f"{size}-{start}" if start else size
        stop = np.iinfo(np.int64).max if end is None else end
        inputs = [x, self.whole([start]), self.whole([stop]), self.whole([axis])]

        def back(b: Tape, g: Var) -> Var:
            g, rank = b.expand(g, made), len(x.shape)
            if isinstance(size, int) and isinstance(last, int):
                pads = b.whole([n if i == axis else 0 for n in (start, size - last) for i in range(rank)])
                return b.node("Pad", [g, pads], x.shape)
            before = b.whole([start if i == axis else 0 for i in range(rank)])
            if end is None:
                return b.node("Pad", [g, b.whole([start if i == axis else 0 for i in range(2 * rank)])], x.shape)
            lacking = b.node("Sub", [b.shape_of(x), b.shape_of(g)], (rank,), dtype=np.int64)
            after = b.node("Sub", [lacking, before], (rank,), dtype=np.int64)
            pads = b.node("Concat", [before, after], (2 * rank,), axis=0, dtype=np.int64)
            return b.node("Pad", [g, pads], x.shape)

        made = self.node("Slice", inputs, shape, {0: back})
        return made

    def join(self, parts: Sequence[Var]) -> Var:
        """Along the last axis, whose sizes are numbers."""
        widths = [int(part.shape[-1]) for part in parts]
        starts = [sum(widths[:i]) for i in range(len(parts))]

        def rule(i: int) -> Rule:
            return lambda b, g: b.part(b.expand(g, made), len(g.shape) - 1, starts[i], starts[i] + widths[i])

        shape = [*parts[0].shape[:-1], sum(widths)]
        made = self.node("Concat", parts, shape, {i: rule(i) for i in range(len(parts))}, axis=-1)
        return made

    def longer(self, x: Var, size: int) -> Var:
        """With zeros behind the last axis, up to ``size``."""
        last, own = len(x.shape) - 1, int(x.shape[-1])
        pads = self.whole([*[0] * (2 * last + 1), size - own])
        return self.node("Pad", [x, pads], (*x.shape[:-1], size), {0: lambda b, g: b.part(g, last, 0, own)})

    def unsqueeze(self, x: Var, axis: int) -> Var:
        """A new axis of size 1."""
        shape = [*x.shape[:axis], 1, *x.shape[axis:]]
        rule: dict[int, Rule] = {0: lambda b, g: b.node("Squeeze", [g, b.whole([axis])], _without(g.shape, axis))}
        return self.node("Unsqueeze", [x, self.whole([axis])], shape, rule)

    # Arithmetic

    def _to_shape(self, x: Var, shape: tuple[Dim, ...], output: Var) -> Var:
        """The gradient ``x`` of ``output``, summed over the axes along which an input of ``shape`` was broadcast."""
        more = len(output.shape) - len(shape)
        axes = [i for i, size in enumerate(output.shape) if i < more or (shape[i - more] == 1 and size != 1)]
        if axes:
            x = self.expand(x, output)
        for axis in axes:
            x = self.sum(x, axis, keep=True)
        for _ in range(more):
            x = self.node("Squeeze", [x, self.whole([0])], x.shape[1:])
        return x

    def _broadcast(self, kind: str, a: Var, b: Var, rules: Mapping[int, Callable[[Tape, Var], Var]]) -> Var:
        """An operator of two numbers. ``rules``: the gradients before the sum over what was broadcast."""

        def summed(i: int, rule: Rule) -> Rule:
            return lambda t, g: t._to_shape(rule(t, g), (a, b)[i].shape, made)

        made = self.node(kind, [a, b], _joint(a.shape, b.shape), {i: summed(i, rule) for i, rule in rules.items()})
        return made

    def plus(self, a: Var, b: Var) -> Var:
        """``a + b``."""
        return self._broadcast("Add", a, b, {0: lambda t, g: g, 1: lambda t, g: g})

    def minus(self, a: Var, b: Var) -> Var:
        """``a - b``."""
        return self._broadcast("Sub", a, b, {0: lambda t, g: g, 1: lambda t, g: t.times(g, -1.0)})

    def times(self, a: Var, b: Var | float) -> Var:
        """``a * b``."""
        if not isinstance(b, Var):
            number = b
            scaled = self.fixed(f"{self.prefix}number.{number}", number)
            return self._broadcast("Mul", a, scaled, {0: lambda t, g: t.times(g, number)})
        other = b
        return self._broadcast("Mul", a, other, {0: lambda t, g: t.times(g, other), 1: lambda t, g: t.times(g, a)})

    def over(self, a: Var, b: Var) -> Var:
        """``a / b``."""

        def of_divisor(t: Tape, g: Var) -> Var:
            return t.times(t.over(t.times(g, made), b), -1.0)

        made = self._broadcast("Div", a, b, {0: lambda t, g: t.over(g, b), 1: of_divisor})
        return made

    def sum(self, x: Var, axis: int, *, keep: bool = False) -> Var:
        """The sum along an axis, which stays with size 1 or goes. Its gradient is left to be broadcast."""
        shape = [*x.shape[:axis], *([1] if keep else []), *x.shape[axis + 1 :]]
        rule: dict[int, Rule] = {0: lambda b, g: g if keep else b.unsqueeze(g, axis)}
        return self.node("ReduceSum", [x, self.whole([axis])], shape, rule, keepdims=int(keep))

    def mean_of_last(self, x: Var) -> Var:
        """The mean along the last axis, which stays with size 1; it has no gradient here."""
        last = len(x.shape) - 1
        return self.node("ReduceMean", [x], (*x.shape[:-1], 1), axes=[last], keepdims=1)

    def mean(self, x: Var, axis: int) -> Var:
        """The mean along an axis whose size is a number."""
        return self.times(self.sum(x, axis), 1.0 / int(x.shape[axis]))

    def mean_of_heads(self, x: Var) -> Var:
        """The mean along the first of three axes, by a matrix product, which is the fastest sum."""
        heads, *rest = x.shape
        weights = self.fixed(f"{self.prefix}mean.{heads}", torch.full((1, int(heads)), 1.0 / int(heads)))
        flat = self.node("Reshape", [x, self.whole([int(heads), -1])], (heads, "all"))
        mean = self.node("MatMul", [weights, flat], (1, "all"))
        after = self.node("Slice", [self.shape_of(x), self.whole([1]), self.whole([3])], (2,), dtype=np.int64)
        made = self.node("Reshape", [mean, after], rest)
        self.steps.append(Step(made, [(x.name, lambda b, g: b.unsqueeze(b.times(g, 1.0 / int(heads)), 0))]))
        return made

    def product(self, a: Var, b: Var) -> Var:
        """The matrix product. Where both have a gradient, all axes but the last two are alike."""
        rules: dict[int, Rule] = {
            0: lambda t, g: t.product(t.expand(g, made), t.turned(b)),
            1: lambda t, g: t.product(t.turned(a), t.expand(g, made)),
        }
        made = self.node("MatMul", [a, b], [*a.shape[:-1], b.shape[-1]], rules)
        return made

    # Functions of each number

    def function(self, kind: str, x: Var, rule: Rule) -> Var:
        """An operator of each number by itself; ``rule`` gives the gradient."""
        return self.node(kind, [x], x.shape, {0: rule})

    def exp(self, x: Var) -> Var:
        """``e`` to the power of each."""
        made = self.function("Exp", x, lambda b, g: b.times(g, made))
        return made

    def log(self, x: Var) -> Var:
        """The natural logarithm of each."""
        return self.function("Log", x, lambda b, g: b.over(g, x))

    def sigmoid(self, x: Var) -> Var:
        """``1 / (1 + exp(-x))``."""

        def back(b: Tape, g: Var) -> Var:
            return b.times(g, b.minus(made, b.times(made, made)))

        made = self.function("Sigmoid", x, back)
        return made

    def softplus(self, x: Var) -> Var:
        """``log(1 + exp(x))``."""
        return self.function("Softplus", x, lambda b, g: b.times(g, b.sigmoid(x)))

    def tanh(self, x: Var) -> Var:
        """The hyperbolic tangent of each."""

        def back(b: Tape, g: Var) -> Var:
            return b.minus(g, b.times(g, b.times(made, made)))

        made = self.function("Tanh", x, back)
        return made

    def relu(self, x: Var) -> Var:
        """What is positive of each; it has no gradient here."""
        return self.node("Relu", [x], x.shape)

    def gelu(self, x: Var) -> Var:
        """``x`` times the normal distribution's share below ``x`` (Hendrycks and Gimpel 2016)."""

        def back(b: Tape, g: Var) -> Var:
            share = b.times(
                b.plus(b.node("Erf", [b.times(x, 0.5**0.5)], x.shape), b.fixed(f"{b.prefix}number.1.0", 1.0)), 0.5
            )
            density = b.times(b.exp(b.times(b.times(x, x), -0.5)), (2 * np.pi) ** -0.5)
            return b.times(g, b.plus(share, b.times(x, density)))

        return self.node("Gelu", [x], x.shape, {0: back}, contrib=True)

    def clip(self, x: Var, low: float | None = None, high: float | None = None) -> Var:
        """Each within bounds; one that was beyond has no gradient."""
        names = ["" if n is None else self.fixed(f"{self.prefix}number.{n}", n).name for n in (low, high)]

        def back(b: Tape, g: Var) -> Var:
            for bound, kind in ((low, "Less"), (high, "Greater")):
                if bound is not None:
                    beyond = b.node(kind, [x, b.fixed(f"{b.prefix}number.{bound}", bound)], x.shape, dtype=np.bool_)
                    g = b.filled(g, beyond, 0.0)
            return g

        return self.node("Clip", [x, *names], x.shape, {0: back})

    def filled(self, x: Var, where: Var, value: float) -> Var:
        """``x`` with ``value`` where the bool ``where`` is True."""
        fill = self.fixed(f"{self.prefix}number.{value}", value)
        shape = _joint(where.shape, x.shape)

        def back(b: Tape, g: Var) -> Var:
            return b._to_shape(b.filled(g, where, 0.0), x.shape, made)

        made = self.node("Where", [where, fill, x], shape, {2: back})
        return made

    # Functions of the last axis

    def softmax(self, x: Var) -> Var:
        """Over the last axis."""

        def back(b: Tape, g: Var) -> Var:
            last = len(x.shape) - 1
            weighed = b.times(g, made)
            return b.minus(weighed, b.times(made, b.sum(weighed, last, keep=True)))

        made = self.node("Softmax", [x], x.shape, {0: back}, axis=-1)
        return made

    def normalized(self, x: Var, least: float = 1e-12) -> Var:
        """Over the last axis: ``x`` divided by its Euclidean length, which counts at least ``least``."""
        last = len(x.shape) - 1
        length = self.node("ReduceL2", [x], [*x.shape[:-1], 1], axes=[last], keepdims=1)
        length = self.clip(length, least)

        def back(b: Tape, g: Var) -> Var:
            along = b.sum(b.times(g, made), last, keep=True)
            return b.over(b.minus(g, b.times(made, along)), length)

        made = self.node("Div", [x, length], x.shape, {0: back})
        return made

    def linear(self, x: Var, name: str, weight: Tensor, bias: Tensor | None = None) -> Var:
        """``x`` times ``weight`` ``[out, in]``, plus ``bias``."""
        made = self.product(x, self.fixed(f"{name}.weight", weight.T))
        return made if bias is None else self.plus(made, self.fixed(f"{name}.bias", bias))

    def layer_norm(self, x: Var, name: str, norm: nn.LayerNorm | None = None) -> Var:
        """Over the last axis: mean 0 and deviation 1, then the norm's weight and bias, if there is one."""
        width = int(x.shape[-1])
        ones = self.fixed(f"{name}.weight", [1.0] * width if norm is None else norm.weight)
        zeros = self.fixed(f"{name}.bias", [0.0] * width if norm is None else norm.bias)
        output = f"{self.prefix}LayerNormalization.{len(self.nodes)}"
        small = 1e-5 if norm is None else float(norm.eps)
        names = [output, f"{output}.mean", f"{output}.inverse"]
        self.add("LayerNormalization", [x.name, ones.name, zeros.name], *names, axis=-1, epsilon=small)
        made = Var(output, x.shape)
        mean, inverse = (Var(name, (*x.shape[:-1], 1)) for name in names[1:])

        def back(b: Tape, g: Var) -> Var:
            scaled, centred = b.times(g, ones), b.times(b.minus(x, mean), inverse)
            level, along = (b.mean_of_last(part) for part in (scaled, b.times(scaled, centred)))
            return b.times(b.minus(b.minus(scaled, level), b.times(centred, along)), inverse)

        self.steps.append(Step(made, [(x.name, back)]))
        return made


def _joint(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> list[Dim]:
    """The shape of two that are broadcast together."""
    rank = max(len(a), len(b))
    pairs = zip(*((1,) * (rank - len(shape)) + shape for shape in (a, b)), strict=True)
    return [y if x == 1 else x for x, y in pairs]


def _sizes(shape: tuple[Dim, ...], source: tuple[Dim, ...]) -> list[int] | None:
    """The sizes that reshape a tensor of the shape ``source`` to ``shape``, where they need not be looked up at run
    time: a name that stands at the same place in both is copied, and one other may be what remains."""
    sizes = [n if isinstance(n, int) else 0 if source[i : i + 1] == (n,) else -1 for i, n in enumerate(shape)]
    return sizes if sizes.count(-1) <= 1 and 0 not in shape else None


def _without(shape: tuple[Dim, ...], axis: int) -> tuple[Dim, ...]:
    return (*shape[:axis], *shape[axis + 1 :])
