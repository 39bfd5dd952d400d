"""A detector of COCO's 80 classes: NanoDet with a CSP backbone, batch normalisation folded into the convolutions.

Source: github.com/RangiLyu/nanodet (Apache-2.0), `CustomCspNet`, `PAN` and `NanoDetHead` with shared classes and boxes:
anchor-free, a score for each class and a distribution over the distance to each side at every place of strides 8, 16
and 32 (Li et al. 2020, "Generalized Focal Loss"). Places overlap: one object is seen from several.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (8, 16, 32)
SLOPE = 0.1  # of the leaky rectifiers
BINS = 11  # of the distribution of a distance, one a stride
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of RGB, as the published weights were trained
_VARIANTS = {"tiny": (8, 16, 10), "nanodet": (32, 128, 80)}  # channels of the stem, of the pyramid, and the classes
_BLOCKS = (1, 2, 2, 3)  # residual blocks of each stage
CHANNELS = {name: channels for name, (_, channels, _) in _VARIANTS.items()}
"""Of the pyramid's maps, by variant."""


class Detections(NamedTuple):
    """What is seen at every place: first those of stride 8, row by row, then 16, then 32.

    * ``scores`` ``[images, places, classes]``: sigmoids;
    * ``boxes`` ``[images, places, 4]``: left, top, right, bottom as shares of the image's sides, not cut at its edges;
    * ``features``: the pyramid's maps ``[images, channels, H/8, W/8]``, ``[.., H/16, W/16]``, ``[.., H/32, W/32]``.
    """

    scores: Tensor
    boxes: Tensor
    features: tuple[Tensor, ...]


class ConvLeaky(nn.Module):
    """A convolution 3x3 and a leaky rectifier."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[images, channels_in, h, w]`` -> ``[images, channels_out, ceil(h / stride), ceil(w / stride)]``."""
        return F.leaky_relu(self.conv(x), SLOPE)


class ResidualBlock(nn.Module):
    """Half of the channels are computed from the input, the other half from that half; the two are concatenated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = ConvLeaky(channels, channels // 2)
        self.middle = ConvLeaky(channels // 2, channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        """``[images, channels, h, w]`` -> the same shape."""
        x = self.enter(x)
        return torch.cat([self.middle(x), x], 1)


class CspBlock(nn.Module):
    """A cross-stage partial block: the input with and without its residual blocks, concatenated. Doubles the
    channels."""

    def __init__(self, channels: int, blocks: int, stride: int) -> None:
        super().__init__()
        self.enter = ConvLeaky(channels, channels, stride)
        self.blocks = nn.ModuleList(ResidualBlock(channels) for _ in range(blocks))
        self.leave = ConvLeaky(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[images, channels, h, w]`` -> ``[images, 2 * channels, ceil(h / stride), ceil(w / stride)]``."""
        skipped = x = self.enter(x)
        for block in self.blocks:
            x = block(x)
        return torch.cat([self.leave(x), skipped], 1)


class DetectorHead(nn.Module):
    """Raw scores and distances ``[images, classes + 4 * BINS, h, w]`` of one stride."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.hidden = ConvLeaky(channels, channels)
        self.out = nn.Conv2d(channels, classes + 4 * BINS, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[images, channels, h, w]`` -> ``[images, classes + 4 * BINS, h, w]``."""
        raw: Tensor = self.out(self.hidden(x))
        return raw


class NanoDet(nn.Module):
    """``variant`` is nanodet, or tiny (random weights, for tests)."""

    def __init__(self, variant: str = "nanodet") -> None:
        super().__init__()
        stem, channels, self.classes = _VARIANTS[variant]
        self.stem = ConvLeaky(3, stem, 2)
        self.stages = nn.ModuleList(
            CspBlock(stem * 2**index, blocks, 1 if index == 0 else 2) for index, blocks in enumerate(_BLOCKS)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(stem * 2**level, channels, 1) for level in (2, 3, 4))
        self.heads = nn.ModuleList(DetectorHead(channels, self.classes) for _ in STRIDES)

    def forward(self, pixels: Tensor) -> Detections:
        """``pixels`` uint8 ``[images, height, width, 3]`` RGB, sides divisible by 32."""
        x = pixels.permute(0, 3, 1, 2).to(self.stem.conv.weight.dtype)
        mean, std = (x.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        x = ((x - mean) / std).contiguous(memory_format=torch.channels_last)
        x = F.max_pool2d(self.stem(x), 3, 2, 1)
        levels = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index > 0:
                levels.append(self.lateral[index - 1](x))
        features = pyramid(*levels)
        return detect([head(level) for head, level in zip(self.heads, features, strict=True)], features)


def pyramid(fine: Tensor, middle: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Path aggregation without weights: coarse levels are added to finer ones, then fine levels to coarser ones.

    ``fine`` ``[images, channels, H/8, W/8]``, ``middle`` ``[.., H/16, W/16]``, ``coarse`` ``[.., H/32, W/32]``; the
    results have the same shapes.
    """
    middle = middle + _double(coarse)
    fine = fine + _double(middle)
    middle = middle + F.avg_pool2d(fine, 2)  # what bilinear halving is
    coarse = coarse + F.avg_pool2d(middle, 2)
    return fine, middle, coarse


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def detect(raw: list[Tensor], features: tuple[Tensor, ...]) -> Detections:
    """From the heads' raw output ``[images, classes + 4 * BINS, h, w]`` of each stride to `Detections`."""
    scores, boxes = [], []
    for level in raw:
        rows, columns = level.shape[-2:]
        flat = level.flatten(2).transpose(1, 2)  # [images, places, classes + 4 * BINS]
        scores.append(flat[..., : -4 * BINS].sigmoid())
        share = flat[..., -4 * BINS :].reshape(*flat.shape[:2], 4, BINS).softmax(-1)
        distances = share @ torch.arange(BINS, dtype=flat.dtype, device=flat.device)  # in strides
        y, x = (torch.arange(n, dtype=flat.dtype, device=flat.device) + 0.5 for n in (rows, columns))
        centres = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).view(-1, 2)
        corners = torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], -1)
        boxes.append(corners / corners.new_tensor([columns, rows, columns, rows]))
    return Detections(torch.cat(scores, 1), torch.cat(boxes, 1), features)


def published_weights(layers: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The state dict from the published graph's convolutions, weight ``[out, in, h, w]`` and bias ``[out]`` each, in
    the order in which it numbers them: backbone, laterals, heads. The published stem takes BGR."""
    with torch.device("meta"):
        names = [name.removesuffix(".weight") for name in NanoDet().state_dict() if name.endswith(".weight")]
    weights: dict[str, Tensor] = {}
    for name, (weight, bias) in zip(names, layers, strict=True):
        weights[f"{name}.weight"] = weight.flip(1) if name == "stem.conv" else weight
        weights[f"{name}.bias"] = bias
    return weights
