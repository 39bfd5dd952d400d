"""The detector: shapes, what its numbers mean, and where its parts stand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.compact.detector import BINS, NanoDet, detect, published_weights, pyramid


def test_the_published_sizes() -> None:
    """Convolutions as the published file has them: 25 of the backbone, 3 laterals, 2 a head."""
    net = NanoDet()
    assert sum(isinstance(module, torch.nn.Conv2d) for module in net.modules()) == 34
    assert sum(parameter.numel() for parameter in net.parameters()) == 3_786_068


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 96)])
def test_a_place_for_every_8_16_and_32_pixels(height: int, width: int) -> None:
    with torch.no_grad():
        found = NanoDet("tiny")(torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8))
    sizes = [(height // stride, width // stride) for stride in (8, 16, 32)]
    places = sum(rows * columns for rows, columns in sizes)
    assert found.scores.shape == (2, places, 10)
    assert found.boxes.shape == (2, places, 4)
    assert [level.shape[2:] for level in found.features] == sizes
    assert ((found.scores > 0) & (found.scores < 1)).all()


def raw(rows: int, columns: int, place: tuple[int, int], bins: list[int]) -> Tensor:
    """A level with one class, seen at one place, with distances (left, top, right, bottom) of whole strides."""
    level = torch.full((1, 1 + 4 * BINS, rows, columns), -20.0)
    level[0, 0, *place] = 20.0
    for side, bin_ in enumerate(bins):
        level[0, 1 + side * BINS + bin_, *place] = 20.0
    return level


def test_distances_are_strides_from_the_middle_of_the_place() -> None:
    found = detect([raw(4, 8, (1, 2), [2, 1, 3, 0]), raw(2, 4, (0, 0), [0, 0, 1, 1])], ())
    first, second = 1 * 8 + 2, 4 * 8
    assert found.scores[0, :, 0].topk(2).indices.sort().values.tolist() == [first, second]
    assert found.boxes[0, first].tolist() == pytest.approx([0.5 / 8, 0.5 / 4, 5.5 / 8, 1.5 / 4], abs=1e-6)
    assert found.boxes[0, second].tolist() == pytest.approx([0.5 / 4, 0.5 / 2, 1.5 / 4, 1.5 / 2], abs=1e-6)


def test_the_pyramid_adds_levels_both_ways() -> None:
    """Against bilinear resizing by its own definition, down as well as up."""
    fine, middle, coarse = (torch.randn(1, 3, n, n) for n in (8, 4, 2))

    def resize(x: Tensor, size: int) -> Tensor:
        return F.interpolate(x, (size, size), mode="bilinear", align_corners=False)

    down1 = middle + resize(coarse, 4)
    down0 = fine + resize(down1, 8)
    up1 = down1 + resize(down0, 4)
    expected = (down0, up1, coarse + resize(up1, 2))
    for found, level in zip(pyramid(fine, middle, coarse), expected, strict=True):
        torch.testing.assert_close(found, level, atol=1e-6, rtol=1e-6)


def test_published_layers_in_their_order_and_the_stem_of_bgr() -> None:
    net = NanoDet()
    layers = [(m.weight.detach(), m.bias.detach()) for m in net.modules() if isinstance(m, torch.nn.Conv2d)]  # type: ignore[union-attr]
    weights = published_weights(layers)
    assert set(weights) == set(net.state_dict())
    for name, tensor in net.state_dict().items():
        expected = tensor.flip(1) if name == "stem.conv.weight" else tensor
        assert torch.equal(weights[name], expected), name
    with pytest.raises(ValueError, match="zip"):
        published_weights(layers[1:])
