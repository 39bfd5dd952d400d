"""The image networks as ONNX graphs (`model.compact.image_networks` runs them), built from the modules' own weights:
float32, or int8 with measured ranges.

An int8 graph is in QDQ form: a tensor that has a range is rounded to 256 steps of it, and ONNX Runtime computes what
lies between such tensors in integers. Weights have 127 steps a side for each output channel, the same that they are
stored with (`model.compact.storage`), so nothing is lost there. A tensor without a range stays float32, and so does
what reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from model.compact.detector import MEAN, SLOPE, STD, CspBlock, DetectorHead, NanoDet
from model.compact.onnx_builder import Graph
from model.compact.vision import EfficientNetLite, MBConv

Range = tuple[float, float]


class GraphBuilder(Graph):
    """Names of tensors are those of the modules that make them."""

    def __init__(self, ranges: Mapping[str, Range]) -> None:
        super().__init__()
        self.input("pixels", np.uint8)  # [images, height, width, 3]
        self.ranges = ranges
        self.scales: dict[str, float] = {}
        """Of tensors that are read as integers."""
        self.measured: list[str] = []
        """Tensors that could be, in their order."""

    def rounds(self, x: str) -> str:
        """``x`` rounded to its range, where it has one."""
        self.measured.append(x)
        if x not in self.ranges:
            return x
        low, high = min(self.ranges[x][0], 0.0), max(self.ranges[x][1], 0.0)  # 0 must be one of the steps
        scale = max(high - low, 1e-6) / 255.0
        steps = self._steps(x, scale, round(-low / scale))
        self.add("QuantizeLinear", [x, *steps], f"{x}.integers")
        return self.add("DequantizeLinear", [f"{x}.integers", *steps], f"{x}.rounded")

    def pixels(self, scale: float, zero: int) -> str:
        """The input's planes as integers that stand for ``(pixel - zero) * scale``: nothing is rounded."""
        self.add("Transpose", ["pixels"], "pixels.planes", perm=[0, 3, 1, 2])
        return self.add("DequantizeLinear", ["pixels.planes", *self._steps("pixels", scale, zero)], "pixels.rounded")

    def normalized_pixels(self, mean: Sequence[float], std: Sequence[float]) -> str:
        """The input's planes in float32, ``(pixel - mean) / std``."""
        x = self.add("Cast", ["pixels"], "pixels.float", to=1)
        x = self.add("Sub", [x, self.constant("pixels.mean", mean, np.float32)], "pixels.centred")
        x = self.add("Div", [x, self.constant("pixels.std", std, np.float32)], "pixels.normal")
        return self.add("Transpose", [x], "pixels.planes", perm=[0, 3, 1, 2])

    def _steps(self, x: str, scale: float, zero: int) -> list[str]:
        self.scales[f"{x}.rounded"] = scale
        return [self.constant(f"{x}.scale", scale, np.float32), self.constant(f"{x}.zero", zero, np.uint8)]

    def conv(self, x: str, output: str, conv: nn.Conv2d, pads: Sequence[int], weight: Tensor | None = None) -> str:
        """A convolution of an input that was rounded in integers, of another in float32. ``pads``: top, left, bottom,
        right. ``weight`` ``[out, in, h, w]``: in place of the module's."""
        values = _numpy(conv.weight if weight is None else weight)
        self.add(
            "Conv",
            [x, *self._weights(x, output, values, _numpy(conv.bias))],
            output,
            strides=list(conv.stride),
            kernel_shape=list(conv.kernel_size),
            pads=list(pads),
            group=conv.groups,
        )
        return output

    def linear(self, x: str, output: str, weight: Tensor, bias: Tensor | None) -> str:
        """Channels of every place ``[images, channels, h, w]`` -> ``[images, places, out]``, in float32 whatever the
        input is: integers are summed exactly, and their sum is not rounded. ``weight`` ``[out, channels, ...]``."""
        channels = weight.shape[1]
        shape = self.constant(f"places.{channels}", [0, channels, -1], np.int64)
        if x in self.scales:  # by way of the integers, so that their reader is the product
            integers, steps = self._source(x)
            flat = self.add("Reshape", [integers, shape], f"{output}.flat")
            turned = self.add("Transpose", [flat], f"{output}.places", perm=[0, 2, 1])
            places = self.add("DequantizeLinear", [turned, *steps], f"{output}.places.rounded")
            self.scales[places] = self.scales[x]
        else:
            flat = self.add("Reshape", [x, shape], f"{output}.flat")
            places = self.add("Transpose", [flat], f"{output}.places", perm=[0, 2, 1])
        weights, *_ = self._weights(places, output, _numpy(weight.flatten(1)), None, turned=True)
        self.add("MatMul", [places, weights], f"{output}.product")
        return self.add("Add", [f"{output}.product", self.constant(f"{output}.bias", _numpy(bias), np.float32)], output)

    def _source(self, rounded: str) -> tuple[str, list[str]]:
        """Of a rounded tensor: its integers, and their scale and zero."""
        node = next(node for node in reversed(self.nodes) if node.outputs[0] == rounded)
        return node.inputs[0], list(node.inputs[1:])

    def _weights(
        self,
        x: str,
        output: str,
        values: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        *,
        turned: bool = False,
    ) -> list[str]:
        """Weight ``[out, ...]`` and bias as what reads ``x`` takes them. ``turned``: the weight ``[in, out]``."""
        name, found = f"{output}.weight", []
        if x not in self.scales:
            found.append(self.constant(name, values.T if turned else values, np.float32))
            return found if bias is None else [*found, self.constant(f"{output}.bias", bias, np.float32)]
        scale = np.maximum(np.abs(values).max(tuple(range(1, values.ndim))) / 127.0, 1e-12).astype(np.float32)
        integers = np.clip(np.rint(values / scale.reshape(-1, *[1] * (values.ndim - 1))), -127, 127).astype(np.int8)
        inputs = [
            self.constant(f"{name}.integers", integers.T if turned else integers, np.int8),
            self.constant(f"{name}.scale", scale, np.float32),
            self.constant(f"{name}.zero", np.zeros(len(scale)), np.int8),
        ]
        found.append(self.add("DequantizeLinear", inputs, name, axis=1 if turned else 0))
        if bias is not None:
            steps = (scale * np.float32(self.scales[x])).astype(np.float32)
            whole = np.clip(np.rint(bias / steps), -(2**31) + 1, 2**31 - 128).astype(np.int32)
            inputs = [
                self.constant(f"{output}.bias.integers", whole, np.int32),
                self.constant(f"{output}.bias.scale", steps, np.float32),
                self.constant(f"{output}.bias.zero", np.zeros(len(steps)), np.int32),
            ]
            found.append(self.add("DequantizeLinear", inputs, f"{output}.bias", axis=0))
        return found


def _numpy(tensor: Tensor | None) -> NDArray[np.float32]:
    if tensor is None:
        raise ValueError("a convolution without a bias")
    values: NDArray[np.float32] = tensor.detach().float().cpu().contiguous().numpy()
    return values


def vision_graph(net: EfficientNetLite, size: int, ranges: Mapping[str, Range]) -> tuple[GraphBuilder, list[str]]:
    """EfficientNet-Lite with ImageNet's classes at each place: the builder, and the names of its outputs fine, coarse
    and logits ``[images, places, 1000]``. ``size``: the input's side."""
    graph = GraphBuilder(ranges)
    x = graph.pixels(1 / 128, 127) if "vision.stem" in ranges else graph.normalized_pixels([127.0] * 3, [128.0] * 3)

    def conv(x: str, name: str, module: nn.Conv2d, *, clipped: bool = True) -> str:
        nonlocal size
        kernel, stride = module.kernel_size[0], module.stride[0]
        out = -(-size // stride)
        total = max((out - 1) * stride + kernel - size, 0)
        pads = [total // 2, total // 2, total - total // 2, total - total // 2]
        size = out
        if not clipped or (name in ranges and ranges[name][0] >= 0 and ranges[name][1] <= 6.0):  # rounding clips
            return graph.rounds(graph.conv(x, name, module, pads))
        bounds = [graph.constant(f"clip.{n}", n, np.float32) for n in (0, 6)]
        return graph.rounds(graph.add("Clip", [graph.conv(x, f"{name}.linear", module, pads), *bounds], name))

    x = conv(x, "vision.stem", net.stem)
    fine = x
    for index, block in enumerate(net.blocks):
        assert isinstance(block, MBConv)  # noqa: S101
        name, before = f"vision.blocks.{index}", x
        if block.expand is not None:
            x = conv(x, f"{name}.expand", block.expand)
        x = conv(x, f"{name}.depthwise", block.depthwise)
        x = conv(x, f"{name}.project", block.project, clipped=False)
        if block.skip:
            x = graph.rounds(graph.add("Add", [x, before], name))
        if index == net.fine_block:
            fine = x
    coarse = x
    x = conv(x, "vision.head", net.head)
    graph.add("Identity", [fine], "fine")
    graph.add("Identity", [coarse], "coarse")
    graph.linear(x, "logits", net.classifier.weight, net.classifier.bias)
    return graph, ["fine", "coarse", "logits"]


def detector_graph(net: NanoDet, ranges: Mapping[str, Range]) -> tuple[GraphBuilder, list[str]]:
    """NanoDet: the builder, and the names of its outputs: the heads' raw maps of each stride, and the pyramid's."""
    graph = GraphBuilder(ranges)
    std = net.stem.conv.weight.new_tensor(STD).view(1, 3, 1, 1)
    if "detector.stem.linear" in ranges:
        # Pixels as they are, less one mean: the channels' own means go into the bias. Only the padding differs by it.
        x = graph.pixels(1.0, round(MEAN[1]))
        weight = net.stem.conv.weight / std
        shift = weight.new_tensor(MEAN).view(1, 3, 1, 1) - round(MEAN[1])
        stem = nn.Conv2d(3, len(weight), 3, 2, 1)
        bias = net.stem.conv.bias
        assert bias is not None  # noqa: S101
        stem.weight, stem.bias = nn.Parameter(weight), nn.Parameter(bias - (weight * shift).sum((1, 2, 3)))
    else:
        x = graph.normalized_pixels(MEAN, STD)
        stem = net.stem.conv

    def leaky(x: str, name: str, module: nn.Conv2d) -> str:
        x = graph.rounds(graph.conv(x, f"{name}.linear", module, [1, 1, 1, 1]))
        return graph.rounds(graph.add("LeakyRelu", [x], name, alpha=SLOPE))

    def join(parts: Sequence[str], name: str) -> str:
        return graph.rounds(graph.add("Concat", parts, name, axis=1))

    def stage(x: str, name: str, block: CspBlock) -> str:
        skipped = x = leaky(x, f"{name}.enter", block.enter.conv)
        for index, inner in enumerate(block.blocks):
            own = f"{name}.blocks.{index}"
            half = leaky(x, f"{own}.enter", inner.enter.conv)  # type: ignore[union-attr,arg-type]
            x = join([leaky(half, f"{own}.middle", inner.middle.conv), half], own)  # type: ignore[union-attr,arg-type]
        return join([leaky(x, f"{name}.leave", block.leave.conv), skipped], name)

    x = leaky(x, "detector.stem", stem)
    x = graph.add("MaxPool", [x], "detector.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    x = graph.rounds(x)
    levels = []
    for index, block in enumerate(net.stages):
        assert isinstance(block, CspBlock)  # noqa: S101
        x = stage(x, f"detector.stages.{index}", block)
        if index > 0:
            lateral = net.lateral[index - 1]
            levels.append(graph.rounds(graph.conv(x, f"detector.lateral.{index - 1}", lateral, [0] * 4)))  # type: ignore[arg-type]
    names = []
    for index, level in enumerate(_pyramid(graph, *levels)):
        head = net.heads[index]
        assert isinstance(head, DetectorHead)  # noqa: S101
        graph.add("Identity", [level], f"features.{index}")
        hidden = leaky(graph.rounds(level), f"detector.heads.{index}.hidden", head.hidden.conv)
        names.append((graph.linear(hidden, f"raw.{index}", head.out.weight, head.out.bias), f"features.{index}"))
    return graph, list(chain(*zip(*names, strict=True)))


def _pyramid(graph: GraphBuilder, fine: str, middle: str, coarse: str) -> tuple[str, str, str]:
    """See `model.compact.detector.pyramid`: little work, and what the features are, so it stays float32."""
    scales = graph.constant("double", [1, 1, 2, 2], np.float32)

    def double(x: str) -> str:
        return graph.add(
            "Resize",
            [x, "", scales],
            f"{x}.doubled",
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )

    def halve(x: str) -> str:
        return graph.add("AveragePool", [x], f"{x}.halved", kernel_shape=[2, 2], strides=[2, 2])

    middle = graph.add("Add", [middle, double(coarse)], "detector.down.1")
    fine = graph.add("Add", [fine, double(middle)], "detector.down.0")
    middle = graph.add("Add", [middle, halve(fine)], "detector.up.1")
    coarse = graph.add("Add", [coarse, halve(middle)], "detector.up.2")
    return fine, middle, coarse
