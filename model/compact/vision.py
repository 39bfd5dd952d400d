"""Image -> patch features: EfficientNet-Lite, with batch normalisation folded into the convolutions.

Source: Tan and Le 2019, "EfficientNet", and the Lite variant of the TensorFlow TPU repository (no squeeze-and-excite,
ReLU6 in place of swish, stem and head of fixed width). Convolutions pad as TensorFlow's "SAME" does: where the total is
odd, the extra row lies at the bottom and right. Folding is exact, since the running statistics are constants here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.compact.objects import Seen

BATCH_NORM_EPSILON = 1e-3  # the value that the published weights were trained with
# repeats, kernel, stride, expansion, channels of each stage at width 1.0 and depth 1.0
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_VARIANTS = {"tiny": (0.1, 0.3), "lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}  # width, depth
_FINE_STAGE = 4  # the last stage of stride 16


def _round_channels(channels: float) -> int:
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME"."""

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels_in, h, w]`` -> ``[batch, channels_out, ceil(h / stride), ceil(w / stride)]``."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return F.conv2d(x, self.weight, self.bias, 1, kernel // 2, 1, self.groups)
        pads: list[int] = []
        for size in (x.shape[3], x.shape[2]):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, stride, 0, 1, self.groups)


class MBConv(nn.Module):
    """Inverted residual block: expand 1x1, depthwise, project 1x1; a skip where the shapes allow it."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels_in * expansion
        self.expand = SameConv2d(channels_in, hidden, 1) if expansion != 1 else None
        self.depthwise = SameConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self.project = SameConv2d(hidden, channels_out, 1)
        self.skip = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels_in, h, w]`` -> ``[batch, channels_out, ceil(h / stride), ceil(w / stride)]``."""
        wide = x if self.expand is None else F.relu6(self.expand(x))
        narrow: Tensor = self.project(F.relu6(self.depthwise(wide)))
        return narrow + x if self.skip else narrow


class VisionFeatures(NamedTuple):
    """``fine`` ``[batch, fine_channels, H/16, W/16]``, ``coarse`` ``[batch, coarse_channels, H/32, W/32]``, and
    what the detector and the colours say of the same grid."""

    fine: Tensor
    coarse: Tensor
    seen: Seen | None = None


class EfficientNetLite(nn.Module):
    """Features of stride 16 and 32 from RGB images, and ImageNet's classes from the latter.

    ``variant`` is one of tiny (random weights, for tests), lite0, lite1, lite2.
    """

    def __init__(self, variant: str) -> None:
        super().__init__()
        width, depth = _VARIANTS[variant]
        channels = 32 if variant != "tiny" else 8
        self.stem = SameConv2d(3, channels, 3, 2)
        self.blocks = nn.ModuleList()
        last = len(_STAGES) - 1
        for index, (repeats, kernel, stride, expansion, base) in enumerate(_STAGES):
            channels_out = _round_channels(base * width)
            for repeat in range(repeats if index in (0, last) else math.ceil(repeats * depth)):
                self.blocks.append(MBConv(channels, channels_out, kernel, stride if repeat == 0 else 1, expansion))
                channels = channels_out
            if index == _FINE_STAGE:
                self.fine_block = len(self.blocks) - 1
                self.fine_channels = channels
        self.coarse_channels = channels
        head = 1280 if variant != "tiny" else 32
        self.head = SameConv2d(channels, head, 1)
        self.classifier = nn.Linear(head, 1000)

    def forward(self, pixels: Tensor) -> VisionFeatures:
        """``pixels`` uint8 ``[batch, height, width, 3]`` RGB, sides divisible by 32."""
        x = pixels.permute(0, 3, 1, 2).to(self.stem.weight.dtype)
        x = (x - 127.0) / 128.0  # as the published weights were trained
        x = F.relu6(self.stem(x.contiguous(memory_format=torch.channels_last)))
        fine = x
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index == self.fine_block:
                fine = x
        return VisionFeatures(fine, x)

    def classify(self, coarse: Tensor) -> Tensor:
        """ImageNet logits ``[batch, 1000, h, w]`` of each place, as if it were a whole image."""
        hidden = F.relu6(self.head(coarse)).permute(0, 2, 3, 1)
        logits: Tensor = self.classifier(hidden)
        return logits.permute(0, 3, 1, 2)


def fold_imagenet_weights(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict (``_conv_stem``, ``_bn0``, ``_blocks.i._expand_conv`` ...) under this module's names.

    Batch normalisation is folded into each convolution: its weight ``[channels_out, channels_in, k, k]`` is scaled, and
    it gains a bias ``[channels_out]``.
    """
    folded: dict[str, Tensor] = {}

    def fold(target: str, conv: str, norm: str) -> None:
        gain = published[f"{norm}.weight"] / torch.sqrt(published[f"{norm}.running_var"] + BATCH_NORM_EPSILON)
        folded[f"{target}.weight"] = published[f"{conv}.weight"] * gain[:, None, None, None]
        folded[f"{target}.bias"] = published[f"{norm}.bias"] - published[f"{norm}.running_mean"] * gain

    fold("stem", "_conv_stem", "_bn0")
    fold("head", "_conv_head", "_bn1")
    for index in range(sum(key.endswith("_depthwise_conv.weight") for key in published)):
        theirs, ours = f"_blocks.{index}", f"blocks.{index}"
        if f"{theirs}._expand_conv.weight" in published:
            fold(f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
        fold(f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        fold(f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
    folded["classifier.weight"] = published["_fc.weight"]
    folded["classifier.bias"] = published["_fc.bias"]
    return folded
