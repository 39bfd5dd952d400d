"""The rows of one image side by side: each row gets what it gets alone, whoever shares its image or its batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.cross_attention import CrossAttention
from model.rows import Source, attend

DIM, KEYS, TOKENS = 12, 7, 3


def make() -> tuple[CrossAttention, Tensor, Tensor]:
    """A layer, features of four images, and six rows of text."""
    torch.manual_seed(0)
    return CrossAttention(DIM, 10, 3), torch.randn(4, KEYS, 10), torch.randn(6, TOKENS, DIM)


def source(layer: CrossAttention, features: Tensor, rows: int, mask: Tensor | None = None) -> Source:
    return Source([layer.project(features)], rows, mask)


def close(found: Tensor | None, expected: Tensor | None) -> None:
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_rows_that_share_an_image_get_what_each_gets_alone() -> None:
    """Two images asked twice each, then two asked once each."""
    layer, features, x = make()
    sources = [source(layer, features[:2], 2), source(layer, features[2:], 1)]
    output, found = attend(layer, x, sources, 0, need_map=True)
    assert output.shape == x.shape
    assert found is not None
    for row, image in enumerate((0, 0, 1, 1, 2, 3)):
        alone, own = layer(x[row, None], features[image, None], need_map=True)
        close(output[row], alone[0])
        close(found[row], own[0])


@torch.no_grad()
def test_a_sources_mask_is_for_all_its_rows_and_for_no_other_source() -> None:
    layer, features, x = make()
    mask = torch.ones(2, KEYS, dtype=torch.bool)
    mask[1, 4:] = False
    sources = [source(layer, features[:2], 2, mask), source(layer, features[2:], 1)]
    output, found = attend(layer, x, sources, 0, need_map=True)
    assert found is not None
    for row, image, kept in ((0, 0, KEYS), (1, 0, KEYS), (2, 1, 4), (3, 1, 4), (4, 2, KEYS), (5, 3, KEYS)):
        alone, own = layer(x[row, None], features[image, None, :kept], need_map=True)
        close(output[row], alone[0])
        close(found[row, :, :kept], own[0])
        assert found[row, :, kept:].abs().sum() == 0


@torch.no_grad()
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_each_row_may_have_a_mask_of_its_own(kind: str) -> None:
    layer, features, x = make()
    keep = torch.rand(6, KEYS, generator=torch.Generator().manual_seed(1)) < 0.6
    keep[:, 0] = True
    mask = keep if kind == "bool" else torch.zeros(6, KEYS).masked_fill(~keep, -torch.inf)
    sources = [source(layer, features[:2], 2), source(layer, features[2:], 1)]
    output, found = attend(layer, x, sources, 0, row_mask=mask, need_map=True)
    assert found is not None
    for row, image in enumerate((0, 0, 1, 1, 2, 3)):
        alone, own = layer(x[row, None], features[image, None][:, keep[row]], need_map=True)
        close(output[row], alone[0])
        close(found[row][:, keep[row]], own[0])


@torch.no_grad()
def test_without_a_map_the_output_is_the_same_and_there_is_none() -> None:
    layer, features, x = make()
    sources = [source(layer, features[:3], 2)]
    output, found = attend(layer, x, sources, 0)
    assert found is None
    close(output, attend(layer, x, sources, 0, need_map=True)[0])


@torch.no_grad()
def test_the_layer_asked_for_is_the_one_whose_keys_are_read() -> None:
    layer, features, x = make()
    both = Source([layer.project(features[:1]), layer.project(features[1:2])], 6)
    output, _ = attend(layer, x, [both], 1)
    close(output, attend(layer, x, [source(layer, features[1:2], 6)], 0)[0])
    assert (both.count, both.total_rows) == (1, 6)
