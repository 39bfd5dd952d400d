"""The network's own parts: which place of the image is which key, and how meaning is read under a map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.compact.model import tiny
from model.compact.network import FIRST_PATCH, CompactNet
from model.compact.text_encoder import pad_ids
from model.compact.vision import VisionFeatures

CELLS = 4


@pytest.fixture(scope="module")
def net() -> CompactNet:
    return tiny().net


def features(net: CompactNet) -> tuple[VisionFeatures, Tensor]:
    """Random features of one image and the meaning of its coarse places."""
    generator = torch.Generator().manual_seed(0)
    fine = torch.randn(1, net.vision.fine_channels, CELLS, CELLS, generator=generator)
    coarse = torch.randn(1, net.vision.coarse_channels, CELLS // 2, CELLS // 2, generator=generator)
    meaning = torch.randn(1, CELLS // 2, CELLS // 2, net.config.meaning_dim, generator=generator)
    return VisionFeatures(fine, coarse), meaning


def changed(before: Tensor, after: Tensor) -> list[int]:
    """Which keys differ."""
    return ((before - after).abs().amax(-1)[0] > 1e-6).nonzero()[:, 0].tolist()


@torch.no_grad()
def test_each_place_is_its_own_key(net: CompactNet) -> None:
    """Row by row behind the null key; a place of stride 32 is four keys."""
    seen, meaning = features(net)
    before = net.patches(seen, meaning)
    assert before.shape == (1, FIRST_PATCH + CELLS**2, net.config.patch_dim)
    fine = seen.fine.clone()
    fine[0, 0, 1, 3] += 1
    assert changed(before, net.patches(VisionFeatures(fine, seen.coarse), meaning)) == [FIRST_PATCH + 1 * CELLS + 3]
    coarse, other = seen.coarse.clone(), meaning.clone()
    coarse[0, 0, 1, 0] += 1
    other[0, 1, 0] += 1
    four = [FIRST_PATCH + r * CELLS + c for r in (2, 3) for c in (0, 1)]
    assert changed(before, net.patches(VisionFeatures(seen.fine, coarse), meaning)) == four
    assert changed(before, net.patches(seen, other)) == four


@torch.no_grad()
def test_places_that_look_alike_differ_by_where_they_are(net: CompactNet) -> None:
    fine = torch.ones(1, net.vision.fine_channels, CELLS, CELLS)
    coarse = torch.ones(1, net.vision.coarse_channels, CELLS // 2, CELLS // 2)
    patches = net.patches(VisionFeatures(fine, coarse), torch.zeros(1, CELLS // 2, CELLS // 2, net.config.meaning_dim))
    assert torch.pdist(patches[0]).min() > 1e-3


@torch.no_grad()
def test_coarse_patches_stand_for_the_four_in_them(net: CompactNet) -> None:
    """Where the four of each place are alike, a question gets the same answer from a quarter of the keys."""
    seen, meaning = features(net)
    alike = seen.fine[..., ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3)
    seen = VisionFeatures(alike, seen.coarse)
    row, column = (p.detach().clone() for p in (net.patches.row, net.patches.column))
    ids, mask = pad_ids([[2, 60, 61, 3], [2, 61, 3]])
    try:
        for place in (net.patches.row, net.patches.column):
            place[1::2] = place[::2]
        whole, coarse = net.encode_features(seen, meaning), net.encode_features(seen, meaning, coarse_only=True)
        assert coarse.layers[0].keys.shape[2] == FIRST_PATCH + (CELLS // 2) ** 2
        every, few = (net.fuse(ids, mask, [(state, 2)], need_maps=True) for state in (whole, coarse))
        hidden = torch.ones(2, FIRST_PATCH + (CELLS // 2) ** 2, dtype=torch.bool)
        most = FIRST_PATCH + int(few.maps[0][..., FIRST_PATCH:].amax((0, 1)).argmax())
        hidden[:, most] = False
        part = net.fuse(ids, mask, [(coarse, 2)], need_maps=True, patch_mask=hidden)
    finally:
        net.patches.row.copy_(row)
        net.patches.column.copy_(column)
    torch.testing.assert_close(few.vector, every.vector, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(few.maps[0][..., 0], every.maps[0][..., 0], atol=1e-5, rtol=1e-4)
    assert part.maps[0][..., most].max() == 0
    more = (part.maps[0][..., 0] - few.maps[0][..., 0])[mask]
    assert more.min() >= 0, "what is hidden from it, a row gives to the rest"
    assert more.max() > 1e-3


@torch.no_grad()
def test_meaning_is_read_where_the_map_points(net: CompactNet) -> None:
    """Two images, two rows each, all weight on one key: the meaning of the coarse place above it, or none."""
    meaning = torch.randn(2, (CELLS // 2) ** 2, net.config.meaning_dim)
    for row, column in ((0, 0), (1, 2), (2, 1), (3, 3)):
        looking = torch.zeros(2, 2, FIRST_PATCH + CELLS**2)
        looking[:, 0, FIRST_PATCH + row * CELLS + column] = 1
        looking[:, 1, 0] = 1  # no place
        found = net._read(looking, meaning).unflatten(0, (2, 2))
        place = (row // 2) * (CELLS // 2) + column // 2
        torch.testing.assert_close(found[:, 0], meaning[:, place])
        assert found[:, 1].abs().max() == 0


@torch.no_grad()
def test_the_answers_vector_is_fused_question_and_read_meaning(net: CompactNet) -> None:
    """With equal keys and values, the meaning alone still moves the answer, by what is read under the map."""
    state = net.encode_image(torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8))
    other = state._replace(meaning=state.meaning + 1)
    ids, mask = pad_ids([[2, 60, 61, 3]])
    one, moved = (net.fuse(ids, mask, [(image, 1)], need_maps=True) for image in (state, other))
    torch.testing.assert_close(one.maps, moved.maps)
    placed = one.maps[-1][0, 0, FIRST_PATCH:].sum()
    expected = net.head.read.weight.sum(1) * placed
    difference = moved.vector[0] - one.vector[0]
    torch.testing.assert_close(difference[: len(expected)], expected, atol=1e-5, rtol=1e-4)
    assert difference[len(expected) :].abs().max() < 1e-5, "what is learned freely means nothing"


@torch.no_grad()
def test_logits_compare_with_every_answer(net: CompactNet) -> None:
    meant, free, yes_score = (torch.randn(3, size) for size in (net.config.meaning_dim, net.config.free_dim, 1))
    counts = torch.randn(3, net.head.counts)
    vector = torch.cat([meant, free, yes_score, counts], 1)
    expected = meant @ net.head.answers.T + free @ net.head.free.T + net.head.bias
    expected[:, 0] += 0.5 * yes_score[:, 0]  # yes
    expected[:, 1] -= 0.5 * yes_score[:, 0]  # no
    expected[:, 6] += counts[:, 1]  # 1
    expected[:, 7] += counts[:, 2]  # 2
    torch.testing.assert_close(net.logits(vector), expected)


@torch.no_grad()
def test_words_and_how_well_they_fit_lean_to_yes_or_no() -> None:
    """As much for any image until the head relies on the fit, and with no part in the odds of other answers."""
    net = tiny().net
    yes = net.config.meaning_dim + net.config.free_dim
    ids, mask = pad_ids([[2, 60, 61, 3], [2, 70, 3]])
    states = [net.encode_image(torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)) for _ in range(2)]
    states = [state._replace(objects=None) for state in states]
    scores = [net.fuse(ids, mask, [(state, 2)]).vector[:, yes] for state in states]
    torch.testing.assert_close(scores[0], scores[1])
    assert scores[0][0] != scores[0][1]
    assert net.head.yes_no.tolist() == [0.5, -0.5, 0, 0, 0, 0, 0, 0]
    net.head.yes_from_fit.bias.fill_(2.0)
    for state, before in zip(states, scores, strict=True):
        fused = net.fuse(ids, mask, [(state, 2)])
        torch.testing.assert_close(fused.vector[:, yes], before + 2 * fused.fit)
        assert fused.fit.abs().min() > 0


@torch.no_grad()
def test_a_text_is_matched_with_what_its_own_tokens_look_at(net: CompactNet) -> None:
    """The cosine of its mean features with the places under its map, whatever the first and the last token look at; by
    each image of a batch."""
    ids, mask = pad_ids([[2, 60, 61, 3], [2, 70, 3]])
    states = [net.encode_image(torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)) for _ in range(2)]
    found = net.fuse(ids.repeat(2, 1), mask.repeat(2, 1), [(state, 2) for state in states], need_maps=True)
    looks = net.last_map(net.text(ids, mask).repeat(2, 1, 1), mask.repeat(2, 1), [(state, 2) for state in states])
    for row in range(4):
        own = slice(1, int(mask[row % 2].sum()) - 1)
        cells = found.maps[-1][row, own, FIRST_PATCH:].mean(0).view(CELLS // 2, 2, CELLS // 2, 2).sum((1, 3))
        torch.testing.assert_close(looks[row], cells.flatten())
        seen = cells.flatten() @ states[row // 2].places[0]
        said = net.matching.text(net.text(ids, mask)[row % 2, : int(mask[row % 2].sum())].mean(0))
        expected = 10 * torch.nn.functional.cosine_similarity(seen, said, dim=0)
        torch.testing.assert_close(found.fit[row], expected, atol=1e-4, rtol=1e-4)
    assert found.fit.std() > 1e-3
