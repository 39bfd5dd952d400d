"""ONNX graphs, built node by node and written as bytes: the few messages of onnx.proto that graphs here need.

The ``onnx`` package can write them too, but takes 31 MB and a quarter of a second to import. What is written here is
read back with it in the tests. Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, and protobuf's wire
format, https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Union

import numpy as np
from numpy.typing import DTypeLike, NDArray

_Part = bytes | NDArray[np.generic]
Attribute = Union[int, float, str, Sequence[int], "Body"]

_OPSET, _IR = 17, 8  # old enough for every ONNX Runtime since 1.12
_CONTRIB = "com.microsoft"  # ONNX Runtime's own operators
_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9}  # TensorProto.DataType


class Body(NamedTuple):
    """A graph inside of a node, as a serialised ``GraphProto``. It may read whatever was made before the node."""

    graph: bytes


class Node(NamedTuple):
    """One operator: ``inputs`` and ``outputs`` are names of tensors. ``contrib``: one of ONNX Runtime's own."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]
    contrib: bool = False


class Graph:
    """Nodes, one behind the other, that read inputs, constants and each other's outputs by name."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.inputs: dict[str, bytes] = {}
        self.constants: dict[str, NDArray[np.generic]] = {}
        self.dtypes: dict[str, DTypeLike] = {}
        """Of tensors that nodes make and that are not float32."""

    def input(self, name: str, dtype: DTypeLike = np.float32) -> str:
        """An input of any shape. Returns its name; naming it again changes nothing."""
        self.inputs.setdefault(name, _value(name, dtype))
        return name

    def constant(self, name: str, values: object, dtype: DTypeLike) -> str:
        """Store ``values`` under ``name``, unless that is there already. Returns the name. An array of ``dtype`` is
        not copied before `model`."""
        if name not in self.constants:
            self.constants[name] = np.asarray(values, dtype)
        return name

    def add(
        self,
        kind: str,
        inputs: Sequence[str],
        *outputs: str,
        contrib: bool = False,
        **attributes: Attribute,
    ) -> str:
        """Append a node of an operator ``kind``. Returns the name of its first output."""
        self.nodes.append(Node(kind, tuple(inputs), outputs, attributes, contrib))
        return outputs[0]

    def op(self, kind: str, *inputs: str, contrib: bool = False, **attributes: Attribute) -> str:
        """`add` with one output, whose name is of no interest."""
        return self.add(kind, inputs, f"{kind}.{len(self.nodes)}", contrib=contrib, **attributes)

    def model(self, outputs: Sequence[str]) -> bytes:
        """The graph up to ``outputs`` as a serialised ``ModelProto``. Its constants move there: the graph has none
        after it."""
        graph = self._body(outputs)
        size = sum(part.nbytes if isinstance(part, np.ndarray) else len(part) for part in graph)
        opsets = _field(8, _field(2, _OPSET)) + _field(8, _field(1, _CONTRIB.encode()) + _field(2, 1))
        return _written([_field(1, _IR), _head(7, size), *graph, opsets])

    def body(self, outputs: Sequence[str]) -> Body:
        """`model`, for an attribute of a node in another graph."""
        return Body(_written(self._body(outputs)))

    def _body(self, outputs: Sequence[str]) -> list[_Part]:
        """The parts of a ``GraphProto``."""
        parts: list[_Part] = [_field(1, _node(node)) for node in self.nodes]
        parts.append(_field(2, b"crosslook"))
        for name, values in self.constants.items():
            parts += [_tensor_head(name, values), values]
        parts += [_field(11, given) for given in self.inputs.values()]
        parts += [_field(12, _value(name, self.dtypes.get(name, np.float32))) for name in outputs]
        self.constants.clear()
        return parts


def _written(parts: Sequence[_Part]) -> bytes:
    """The parts behind each other, one copied at a time: a graph may hold a hundred megabytes."""
    file = io.BytesIO()
    file.writelines(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else part for part in parts)
    return file.getvalue()


def _node(node: Node) -> bytes:
    """A ``NodeProto``, named like its first output."""
    names = [_field(1, name.encode()) for name in node.inputs] + [_field(2, name.encode()) for name in node.outputs]
    attributes = [_field(5, _attribute(*pair)) for pair in node.attributes.items()]
    domain = _field(7, _CONTRIB.encode()) if node.contrib else b""
    return b"".join([*names, _field(3, node.outputs[0].encode()), _field(4, node.kind.encode()), *attributes, domain])


def _attribute(name: str, value: Attribute) -> bytes:
    """An ``AttributeProto``: an integer, a float, a string, a graph, or integers."""
    head = _field(1, name.encode())
    if isinstance(value, int):
        return head + _field(3, value) + _field(20, 2)
    if isinstance(value, float):
        return head + _varint(2 << 3 | 5) + struct.pack("<f", value) + _field(20, 1)
    if isinstance(value, str):
        return head + _field(4, value.encode()) + _field(20, 3)
    if isinstance(value, Body):
        return head + _field(6, value.graph) + _field(20, 5)
    return head + b"".join(_field(8, whole) for whole in value) + _field(20, 7)


def _tensor_head(name: str, values: NDArray[np.generic]) -> bytes:
    """A ``GraphProto.initializer`` up to the bytes of the tensor, which are its end."""
    dims = b"".join(_field(1, size) for size in values.shape)
    tensor = dims + _field(2, _TYPES[values.dtype.name]) + _field(8, name.encode()) + _head(9, values.nbytes)
    return _head(5, len(tensor) + values.nbytes) + tensor


def _value(name: str, dtype: DTypeLike) -> bytes:
    """A ``ValueInfoProto`` of a tensor of any shape."""
    return _field(1, name.encode()) + _field(2, _field(1, _field(1, _TYPES[np.dtype(dtype).name])))


def _field(number: int, value: bytes | int) -> bytes:
    """A field of a message: a whole number, or bytes (a string or another message)."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _head(number, len(value)) + value


def _head(number: int, length: int) -> bytes:
    """What stands before a field of so many bytes."""
    return _varint(number << 3 | 2) + _varint(length)


def _varint(value: int) -> bytes:
    """Seven bits a byte, least first; negative numbers as their two's complement in 64 bits."""
    return bytes(_septets(value & (1 << 64) - 1))


def _septets(value: int) -> Iterator[int]:
    while value > 127:
        yield value & 127 | 128
        value >>= 7
    yield value
