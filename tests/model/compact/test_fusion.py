"""The fusion stack: what it is without an image, and that company changes no row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from model.compact.fusion import Fusion, FusionLayer, GatherLayer
from model.kernels import KERNELS
from model.rows import Source

DIM, PATCHES, HEADS = 24, 9, 2


def make_fusion(layers: int = 2) -> Fusion:
    torch.manual_seed(0)
    fusion = Fusion(layers, dim=DIM, dim_kv=16, num_heads=HEADS, cross_heads=3, cross_dim=12, dropout=0.5).eval()
    for layer in fusion.layers:
        nn.init.normal_(layer.cross.wq.weight, std=0.6)  # louder than at birth, so that maps are not flat
        nn.init.normal_(layer.cross.wk.weight, std=0.6)
    return fusion.requires_grad_(False)


def patches(images: int, seed: int = 1) -> Tensor:
    return torch.randn(images, PATCHES, 16, generator=torch.Generator().manual_seed(seed))


def text(rows: int, tokens: int, seed: int = 2) -> tuple[Tensor, Tensor]:
    """Random states of full length, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, tokens, DIM, generator=generator), torch.ones(rows, tokens, dtype=torch.bool)


def rows_of(fusion: Fusion, features: Tensor, rows: int) -> Source:
    return Source(fusion.project(features), rows)


def close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_without_an_output_projection_it_is_the_text_encoder() -> None:
    """Zero ``o`` equals transformers' BERT layers with the same weights: so training starts from a whole encoder."""
    fusion = make_fusion()
    config = BertConfig(hidden_size=DIM, num_attention_heads=HEADS, intermediate_size=4 * DIM)
    config._attn_implementation = "eager"
    x, mask = text(2, 5)
    mask[1, 3:] = False
    expected = x
    for layer in (*fusion.layers, fusion.gather):
        assert isinstance(layer, FusionLayer | GatherLayer)
        if isinstance(layer, FusionLayer):
            nn.init.zeros_(layer.cross.o.weight)
            nn.init.zeros_(layer.cross.o.bias)
        theirs = BertLayer(config).eval().requires_grad_(False)
        own = theirs.attention.self
        for source, target in (
            (layer.query, own.query),
            (layer.key, own.key),
            (layer.value, own.value),
            (layer.output, theirs.attention.output.dense),
            (layer.self_norm, theirs.attention.output.LayerNorm),
            (layer.expand, theirs.intermediate.dense),
            (layer.contract, theirs.output.dense),
            (layer.feed_forward_norm, theirs.output.LayerNorm),
        ):
            target.load_state_dict(source.state_dict())
        bias = torch.zeros(2, 1, 1, 5).masked_fill(~mask[:, None, None], -1e30)
        result = theirs(expected, bias)
        expected = result[0] if isinstance(result, tuple) else result
    found, _, _ = fusion(x, mask, [rows_of(fusion, patches(1), 2)])
    close(found, expected[:, 0])


@pytest.mark.parametrize("need_maps", [False, True])
def test_rows_of_one_image_side_by_side_are_those_one_by_one(need_maps: bool) -> None:
    fusion = make_fusion()
    x, mask = text(6, 4)
    features = patches(2)
    state, looking, maps = fusion(x, mask, [rows_of(fusion, features, 3)], need_maps=need_maps)
    for row in range(6):
        alone = fusion(
            x[row : row + 1], mask[row : row + 1], [rows_of(fusion, features[row // 3, None], 1)], need_maps=need_maps
        )
        close(state[row], alone[0][0])
        close(looking[row], alone[1][0])
        for together, own in zip(maps, alone[2], strict=True):
            close(together[row], own[0])
    assert len(maps) == (2 if need_maps else 0)


def test_a_batch_of_mixed_lengths_and_images_is_one_at_a_time() -> None:
    fusion = make_fusion()
    lengths, askers = [2, 7, 4, 5, 3], [2, 1, 2]  # rows an image
    x, _ = text(5, 7)
    mask = torch.arange(7) < torch.tensor(lengths)[:, None]
    features = patches(3)
    groups = [rows_of(fusion, features[i : i + 1], rows) for i, rows in enumerate(askers)]
    state, looking, maps = fusion(x, mask, groups, need_maps=True)
    image_of = [0, 0, 1, 2, 2]
    for row, length in enumerate(lengths):
        own, own_mask = x[row : row + 1, :length], mask[row : row + 1, :length]
        alone = fusion(own, own_mask, [rows_of(fusion, features[image_of[row], None], 1)], need_maps=True)
        close(state[row], alone[0][0])
        close(looking[row, :length], alone[1][0])
        for together, single in zip(maps, alone[2], strict=True):
            close(together[row, :length], single[0])


def test_groups_of_several_images_follow_each_other() -> None:
    """Two images asked twice each, then two asked once each: the rows of the second group are its own."""
    fusion = make_fusion()
    x, mask = text(6, 4)
    features = patches(4)
    groups = [rows_of(fusion, features[:2], 2), rows_of(fusion, features[2:], 1)]
    state, _, maps = fusion(x, mask, groups, need_maps=True)
    for row, image in enumerate((0, 0, 1, 1, 2, 3)):
        alone = fusion(x[row, None], mask[row, None], [rows_of(fusion, features[image, None], 1)], need_maps=True)
        close(state[row], alone[0][0])
        close(maps[-1][row], alone[2][-1][0])


def test_a_pass_without_maps_is_that_with_maps() -> None:
    fusion = make_fusion(3)
    x, mask = text(4, 5)
    mask[2, 2:] = False
    groups = [rows_of(fusion, patches(2), 2)]
    short, full = fusion(x, mask, groups), fusion(x, mask, groups, need_maps=True)
    close(short[0], full[0])
    close(short[1], full[1])
    assert short[2] == []
    assert [tuple(m.shape) for m in full[2]] == [(4, 5, PATCHES)] * 3
    close(full[1], full[2][-1])
    close(fusion.last_map(x, mask, groups), full[1])


def test_maps_are_probabilities_that_differ_between_tokens_and_images() -> None:
    fusion = make_fusion()
    x, mask = text(2, 5)
    _, _, maps = fusion(x, mask, [rows_of(fusion, patches(2), 1)], need_maps=True)
    for found in maps:
        assert found.min() >= 0
        close(found.sum(-1), torch.ones(2, 5))
        assert (found[:, 0] - found[:, 1]).abs().max() > 0.01
    _, _, same = fusion(x, mask, [rows_of(fusion, patches(2, seed=9), 1)], need_maps=True)
    assert (maps[0] - same[0]).abs().max() > 0.01


def test_a_masked_patch_is_not_looked_at_nor_felt() -> None:
    fusion = make_fusion()
    x, mask = text(2, 4)
    features = patches(2)
    keep = torch.ones(2, PATCHES, dtype=torch.bool)
    keep[0, 3:] = False
    state, looking, maps = fusion(x, mask, [rows_of(fusion, features, 1)], need_maps=True, patch_mask=keep)
    assert looking[0, :, 3:].abs().max() == 0
    assert looking[1].min() > 0
    close(fusion.last_map(x, mask, [rows_of(fusion, features, 1)], keep), looking)
    alone = fusion(x[:1], mask[:1], [rows_of(fusion, features[:1, :3], 1)], need_maps=True)
    close(state[0], alone[0][0])
    close(maps[0][0, :, :3], alone[2][0][0])


@pytest.mark.parametrize("need_maps", [True, False])
def test_each_row_has_a_mask_of_its_own(need_maps: bool) -> None:
    """Rows that share an image, too, and images that share a call."""
    fusion = make_fusion()
    x, mask = text(5, 4)
    features = patches(3)
    keep = torch.rand(5, PATCHES, generator=torch.Generator().manual_seed(3)) < 0.6
    keep[:, 0] = True
    groups = [rows_of(fusion, features[:1], 3), rows_of(fusion, features[1:], 1)]
    state, looking, maps = fusion(x, mask, groups, need_maps=need_maps, patch_mask=keep)
    for row, image in enumerate((0, 0, 0, 1, 2)):
        seen = features[image, None][:, keep[row]]
        one = fusion(x[row, None], mask[row, None], [rows_of(fusion, seen, 1)], need_maps=need_maps)
        close(state[row], one[0][0])
        close(looking[row][:, keep[row]], one[1][0])
        assert looking[row][:, ~keep[row]].abs().sum() == 0
        for found, expected in zip(maps, one[2], strict=True):
            close(found[row][:, keep[row]], expected[0])


def test_every_token_has_a_part_in_the_answer() -> None:
    """What a token saw in the last fusion layer reaches the first token's final state."""
    fusion = make_fusion(1)
    x, mask = text(1, 4)
    x.requires_grad_()
    looks: list[Tensor] = []
    handle = fusion.layers[0].cross.register_forward_hook(lambda _m, _a, output: looks.append(output[0]))  # type: ignore[union-attr]
    state, _, _ = fusion(x, mask, [rows_of(fusion, patches(1), 1)])
    handle.remove()
    (gradient,) = torch.autograd.grad(state[0, 0], looks)
    assert (gradient.abs().sum(-1) > 0).all()


def test_keys_and_values_of_all_layers_are_each_layers_own() -> None:
    fusion = make_fusion()
    features = patches(2)
    for layer, (keys, values) in zip(fusion.layers, fusion.project(features), strict=True):
        assert isinstance(layer, FusionLayer)
        own = layer.cross.project(features)
        close(keys, own.keys)
        close(values, own.values)


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "triton"])
def test_every_kernel_gives_the_same_answer(kernel: str) -> None:
    fusion = make_fusion()
    x, mask = text(3, 4)
    groups = [rows_of(fusion, patches(1), 3)]
    expected = fusion(x, mask, groups, need_maps=True)
    for layer in fusion.layers:
        layer.cross.kernel = kernel
    found = fusion(x, mask, groups, need_maps=True)
    close(found[0], expected[0])
    close(found[2], expected[2])


def test_the_map_of_self_attention_is_that_of_the_pass() -> None:
    """Against PyTorch's own multi-head attention with the layer's weights: output and head mean."""
    layer = make_fusion().layers[0]
    assert isinstance(layer, FusionLayer)
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True).eval().requires_grad_(False)
    parts = (layer.query, layer.key, layer.value)
    theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
    theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    theirs.out_proj.load_state_dict(layer.output.state_dict())
    x, mask = text(3, 6)
    mask[1, 2:] = False
    output, weights = theirs(x, x, x, key_padding_mask=~mask)
    close(layer.self_map(x, mask), weights)
    close(layer.attend(x, x, mask), layer.self_norm(x + output))
