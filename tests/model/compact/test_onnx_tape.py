"""Graphs written by hand: onnx reads them back, and their gradients are autograd's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.compact.evidence_graphs import outer_halves
from model.compact.image_networks import open_session
from model.compact.onnx_backward import PREFIX, gradients, only_if
from model.compact.onnx_builder import Graph
from model.compact.onnx_tape import Tape, Var

torch.manual_seed(5)
NORM = nn.LayerNorm(6, eps=1e-6)
NORM.weight.data, NORM.bias.data = torch.rand(6) + 0.5, torch.randn(6)
OTHER = torch.randn(6, 4)
COLUMN = torch.rand(4, 1) + 0.5
FLAGS = torch.rand(4, 6) > 0.5

CASES: dict[str, tuple[Callable[[Tape, Var], Var], Callable[[Tensor], Tensor]]] = {
    "reshape": (lambda t, x: t.reshape(x, [0, 2, 3], ("n", 2, 3)), lambda x: x.view(-1, 2, 3)),
    "transpose": (lambda t, x: t.transpose(t.unsqueeze(x, 0), [2, 0, 1]), lambda x: x[None].permute(2, 0, 1)),
    "part": (lambda t, x: t.part(x, 1, 2, 5), lambda x: x[:, 2:5]),
    "first of unknown many": (lambda t, x: t.part(x, 0, 0, 1), lambda x: x[:1]),
    "rest of unknown many": (lambda t, x: t.part(x, 0, 1), lambda x: x[1:]),
    "join": (lambda t, x: t.join([x, t.exp(x)]), lambda x: torch.cat([x, x.exp()], -1)),
    "longer": (lambda t, x: t.longer(x, 9), lambda x: F.pad(x, (0, 3))),
    "outer halves": (
        lambda t, x: outer_halves(t, t.reshape(x, [2, 4, -1], (2, 4, "m"))),
        lambda x: (lambda y: y[:, None, :2] * y[None, :, 2:])(x.reshape(2, 4, -1)).reshape(4, -1),
    ),
    "plus a column": (lambda t, x: t.plus(x, t.sum(x, 1, keep=True)), lambda x: x + x.sum(1, keepdim=True)),
    "minus a row": (lambda t, x: t.minus(x, t.sum(x, 0)), lambda x: x - x.sum(0)),
    "a sum of sums": (lambda t, x: t.sum(t.plus(t.sum(x, 0), x), 1), lambda x: (x.sum(0) + x).sum(1)),
    "times itself": (lambda t, x: t.times(x, x), lambda x: x * x),
    "times a number": (lambda t, x: t.times(x, 0.3), lambda x: 0.3 * x),
    "over its sum": (lambda t, x: t.over(t.exp(x), t.sum(t.exp(x), 1, keep=True)), lambda x: x.softmax(1)),
    "mean": (lambda t, x: t.mean(x, 1), lambda x: x.mean(1)),
    "mean of heads": (
        lambda t, x: t.mean_of_heads(t.reshape(x, [3, -1, 2], (3, "n", 2))),
        lambda x: x.reshape(3, -1, 2).mean(0),
    ),
    "product": (lambda t, x: t.product(t.turned(x), t.product(x, t.fixed("w", OTHER))), lambda x: x.T @ (x @ OTHER)),
    "log, tanh": (lambda t, x: t.tanh(t.log(t.exp(x))), torch.tanh),
    "sigmoid": (lambda t, x: t.sigmoid(x), torch.sigmoid),
    "softplus": (lambda t, x: t.softplus(x), F.softplus),
    "gelu": (lambda t, x: t.gelu(x), F.gelu),
    "clip": (lambda t, x: t.clip(x, -0.5, 0.7), lambda x: x.clamp(-0.5, 0.7)),
    "softmax": (lambda t, x: t.softmax(x), lambda x: x.softmax(-1)),
    "normalized": (lambda t, x: t.normalized(x), lambda x: F.normalize(x, dim=-1)),
    "linear": (lambda t, x: t.linear(x, "l", OTHER.T, OTHER[0]), lambda x: F.linear(x, OTHER.T, OTHER[0])),
    "layer norm": (lambda t, x: t.layer_norm(x, "n", NORM), NORM),
    "plain layer norm": (lambda t, x: t.layer_norm(x, "n"), lambda x: F.layer_norm(x, (6,))),
    "filled": (
        lambda t, x: t.filled(x, t.node("Less", [x, t.fixed("zero", 0.0)], x.shape, dtype=np.bool_), 2.0),
        lambda x: x.masked_fill(x < 0, 2.0),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_operator_and_its_gradient_are_pytorchs(name: str) -> None:
    write, expected = CASES[name]
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    tape = Tape()
    start = tape.given("x", ("n", 6))
    middle = tape.times(start, 1.5)
    result = write(tape, middle)
    back, seed_given = Tape(PREFIX), tape.given("seed", result.shape)
    (inside,) = gradients(back, tape, [(result, seed_given)], [middle])
    gradient = only_if(tape, tape.given("need", (), np.bool_), back, inside)

    leaf = (1.5 * x).requires_grad_()
    wanted = expected(leaf)
    seed = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(2))
    (wanted_gradient,) = torch.autograd.grad(wanted, leaf, seed)

    names, given = [result.name, gradient.name], {"x": x.numpy(), "seed": seed.numpy()}
    session = open_session(tape.model(names))
    found, found_gradient = session.run(names, given | {"need": np.array(True)})
    assert session.run(names, given | {"need": np.array(False)})[1].size == 0
    torch.testing.assert_close(torch.from_numpy(found), wanted.detach(), atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(torch.from_numpy(found_gradient), wanted_gradient, atol=5e-6, rtol=1e-5)


def test_a_way_back_has_only_what_lies_between() -> None:
    tape = Tape()
    wanted = tape.exp(tape.given("x", ("n", 6)))
    beside = tape.linear(tape.given("y", ("n", 6)), "beside", torch.ones(6, 6))
    result = tape.plus(tape.times(wanted, 2.0), beside)
    back = Tape(PREFIX)
    gradients(back, tape, [(result, tape.given("seed", result.shape))], [wanted])
    assert [node.kind for node in back.nodes] == ["Mul"]


def test_onnx_reads_what_is_written() -> None:
    graph = Graph()
    graph.input("x", np.uint8)
    graph.constant("w", [[-1, 300], [1 << 40, 0]], np.int64)
    graph.add("Conv", ["x", "w"], "y", "z", contrib=True, pads=[0, -1, 2, 300], alpha=0.25, group=-3, mode="linear")
    graph.dtypes["z"] = np.bool_
    model = onnx.load_from_string(graph.model(["y", "z"]))
    (node,), (weight,) = model.graph.node, model.graph.initializer
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    assert attributes == {"pads": [0, -1, 2, 300], "alpha": 0.25, "group": -3, "mode": b"linear"}
    assert (node.op_type, node.domain, [*node.input], [*node.output]) == (
        "Conv",
        "com.microsoft",
        ["x", "w"],
        ["y", "z"],
    )
    assert onnx.numpy_helper.to_array(weight).tolist() == [[-1, 300], [1 << 40, 0]]
    assert [one.type.tensor_type.elem_type for one in (*model.graph.input, *model.graph.output)] == [2, 1, 9]
    assert (model.ir_version, [(one.domain, one.version) for one in model.opset_import]) == (
        8,
        [("", 17), ("com.microsoft", 1)],
    )


def test_weights_are_not_copied_before_they_are_written() -> None:
    """Nor does it matter how they lie in memory; what has no axis is a tensor too."""
    graph, weight = Graph(), np.arange(6, dtype=np.float32).reshape(2, 3)
    graph.constant("turned", weight.T, np.float32)
    graph.constant("number", 0.5, np.float32)
    assert np.shares_memory(graph.constants["turned"], weight)
    graph.add("Mul", ["turned", "number"], "y")
    read = {
        one.name: onnx.numpy_helper.to_array(one) for one in onnx.load_from_string(graph.model(["y"])).graph.initializer
    }
    np.testing.assert_array_equal(read["turned"], weight.T)
    assert read["number"].shape == ()
    assert not graph.constants
