"""EfficientNet-Lite: shapes, padding, and batch normalisation folded away."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.compact.vision import BATCH_NORM_EPSILON, EfficientNetLite, MBConv, SameConv2d, fold_imagenet_weights


@pytest.mark.parametrize(
    ("variant", "fine", "coarse", "parameters"),
    [("lite0", 112, 320, 4_652_008), ("lite1", 112, 320, 5_416_680), ("lite2", 120, 352, 6_092_072)],
)
def test_the_published_sizes(variant: str, fine: int, coarse: int, parameters: int) -> None:
    """Parameters as published for the Lite variants, whose normalisations have two numbers for a channel, ours one."""
    with torch.device("meta"):
        net = EfficientNetLite(variant)
        features = net(torch.empty(2, 256, 256, 3, dtype=torch.uint8))
    assert features.fine.shape == (2, fine, 16, 16)
    assert features.coarse.shape == (2, coarse, 8, 8)
    assert (net.fine_channels, net.coarse_channels) == (fine, coarse)
    norms = sum(module.out_channels for module in net.modules() if isinstance(module, SameConv2d))
    assert sum(parameter.numel() for parameter in net.parameters()) + norms == parameters


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 160), (32, 64)])
def test_features_of_stride_16_and_32(height: int, width: int) -> None:
    net = EfficientNetLite("tiny").eval()
    with torch.no_grad():
        features = net(torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8))
    assert features.fine.shape[2:] == (height // 16, width // 16)
    assert features.coarse.shape[2:] == (height // 32, width // 32)
    assert net.classify(features.coarse).shape == (1, 1000, height // 32, width // 32)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(7, 8), (8, 7), (9, 5), (6, 6), (1, 2)])
def test_same_padding(kernel: int, stride: int, size: tuple[int, int]) -> None:
    """Against the definition, place by place: ceil(n / stride) outputs, an odd pixel of padding at the bottom right."""
    torch.manual_seed(0)
    conv = SameConv2d(2, 4, kernel, stride)
    x = torch.randn(1, 2, *size)
    with torch.no_grad():
        found = conv(x)[0]
    rows, columns = (math.ceil(n / stride) for n in size)
    assert found.shape == (4, rows, columns)
    before = [max((out - 1) * stride + kernel - n, 0) // 2 for n, out in zip(size, (rows, columns), strict=True)]
    for r in range(rows):
        for c in range(columns):
            expected = conv.bias.detach().clone()
            for i in range(kernel):
                for j in range(kernel):
                    y, z = r * stride + i - before[0], c * stride + j - before[1]
                    if 0 <= y < size[0] and 0 <= z < size[1]:
                        expected += conv.weight.detach()[:, :, i, j] @ x[0, :, y, z]
            torch.testing.assert_close(found[:, r, c], expected, atol=1e-5, rtol=1e-5)


def test_a_depthwise_convolution_keeps_its_channels_apart() -> None:
    conv = SameConv2d(4, 4, 3, 2, groups=4)
    x = torch.zeros(1, 4, 9, 9)
    x[:, 2] = torch.randn(9, 9)
    with torch.no_grad():
        found = conv(x) - conv.bias.view(1, 4, 1, 1)
    assert found[:, 2].abs().max() > 0
    assert found[:, [0, 1, 3]].abs().max() == 0


def published_weights(net: EfficientNetLite) -> dict[str, Tensor]:
    """Random weights for ``net`` as they are published: convolutions without bias, normalisations with statistics."""
    weights: dict[str, Tensor] = {}

    def conv(name: str, norm: str, module: SameConv2d) -> None:
        fan_in = module.weight[0].numel()
        weights[f"{name}.weight"] = torch.randn_like(module.weight) * (2 / fan_in) ** 0.5
        channels = module.out_channels
        weights[f"{norm}.weight"] = torch.rand(channels) + 0.5
        weights[f"{norm}.bias"] = torch.randn(channels) * 0.3
        weights[f"{norm}.running_mean"] = torch.randn(channels) * 0.3
        weights[f"{norm}.running_var"] = torch.rand(channels) + 0.3

    conv("_conv_stem", "_bn0", net.stem)
    conv("_conv_head", "_bn1", net.head)
    for index, block in enumerate(net.blocks):
        assert isinstance(block, MBConv)
        if block.expand is not None:
            conv(f"_blocks.{index}._expand_conv", f"_blocks.{index}._bn0", block.expand)
        conv(f"_blocks.{index}._depthwise_conv", f"_blocks.{index}._bn1", block.depthwise)
        conv(f"_blocks.{index}._project_conv", f"_blocks.{index}._bn2", block.project)
    weights["_fc.weight"] = torch.randn_like(net.classifier.weight)
    weights["_fc.bias"] = torch.randn_like(net.classifier.bias)
    return {name: value.double() for name, value in weights.items()}


def unfolded(net: EfficientNetLite, weights: dict[str, Tensor], pixels: Tensor) -> list[Tensor]:
    """The same network with its normalisations in their place: what each block gives, and the head."""

    def conv(x: Tensor, name: str, norm: str, like: SameConv2d) -> Tensor:
        kernel, stride = like.kernel_size[0], like.stride[0]
        pads = []
        for size in (x.shape[3], x.shape[2]):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        x = F.conv2d(F.pad(x, pads), weights[f"{name}.weight"], None, stride, groups=like.groups)
        statistics = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        affine = weights[f"{norm}.weight"], weights[f"{norm}.bias"]
        return F.batch_norm(x, *statistics, *affine, eps=BATCH_NORM_EPSILON)

    x = F.relu6(conv((pixels.permute(0, 3, 1, 2).double() - 127) / 128, "_conv_stem", "_bn0", net.stem))
    found = []
    for index, block in enumerate(net.blocks):
        assert isinstance(block, MBConv)
        name, before = f"_blocks.{index}", x
        if block.expand is not None:
            x = F.relu6(conv(x, f"{name}._expand_conv", f"{name}._bn0", block.expand))
        x = F.relu6(conv(x, f"{name}._depthwise_conv", f"{name}._bn1", block.depthwise))
        x = conv(x, f"{name}._project_conv", f"{name}._bn2", block.project)
        if x.shape == before.shape:
            x = x + before
        found.append(x)
    head = F.relu6(conv(x, "_conv_head", "_bn1", net.head)).mean((2, 3))
    return [*found, head @ weights["_fc.weight"].T + weights["_fc.bias"]]


@torch.no_grad()
def test_folded_weights_give_what_normalisation_gives() -> None:
    torch.manual_seed(0)
    net = EfficientNetLite("tiny").double().eval()
    weights = published_weights(net)
    net.load_state_dict(fold_imagenet_weights(weights))
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    features = net(pixels)
    *blocks, logits = unfolded(net, weights, pixels)
    torch.testing.assert_close(features.fine, blocks[net.fine_block], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(features.coarse, blocks[-1], atol=1e-9, rtol=1e-9)
    # At 32 px there is one coarse place: its class is the whole image's.
    torch.testing.assert_close(net.classify(features.coarse)[:, :, 0, 0], logits, atol=1e-9, rtol=1e-9)
    assert features.fine.std() > 1e-3  # not all one value
