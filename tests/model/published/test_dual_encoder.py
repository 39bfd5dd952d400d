"""CLIP and SigLIP say what transformers' own say; their similarity maps are cosines in the models' own space."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.interface import Item, MapRequest, Output
from tests.model.published.checkpoints import make_image
from tests.model.published.conftest import DualPair

TEXTS = ("a photo of the red cat", "two dogs!", "the cat, in blue; what's it?")
SHAPES = ((90, 50), (50, 90), (64, 64), (300, 41))


@pytest.fixture(params=["clip", "siglip"])
def pair(request: pytest.FixtureRequest) -> DualPair:
    """Each of the two."""
    found: DualPair = request.getfixturevalue(request.param)
    return found


def run(pair: DualPair, image: Any, *texts: str, maps: MapRequest | None = None) -> Any:
    """Some texts through ours."""
    output = pair.ours.run("match", [Item(image, texts, maps=maps)])[0]
    assert isinstance(output, Output), output
    return output


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_scores_equal_transformers(pair: DualPair, shape: tuple[int, int]) -> None:
    """A softmax over its logits; for SigLIP also the probability of each pair."""
    image = make_image(*shape)
    logits = pair.theirs(**pair.processor(image, return_tensors="pt"), **pair.ids(list(TEXTS))).logits_per_image[0]
    found = run(pair, pair.encode(image), *TEXTS).texts
    assert [t.ranking[0].score for t in found] == pytest.approx(logits.softmax(0).tolist(), abs=1e-5)
    fits = [None] * 3 if pair.ours.info.id == "clip" else pytest.approx(logits.sigmoid().tolist(), abs=1e-5)
    assert [t.fit for t in found] == fits


@torch.no_grad()
def test_features_equal_transformers(pair: DualPair) -> None:
    image = make_image(90, 50)
    result = pair.theirs(**pair.processor(image, return_tensors="pt"), **pair.ids(list(TEXTS)))
    encoded = pair.encode(image)
    torch.testing.assert_close(encoded.whole, result.image_embeds[0], rtol=0, atol=1e-5)
    texts = pair.ours.text_features([pair.ours.tokenizer(text) for text in TEXTS])
    torch.testing.assert_close(texts.whole, result.text_embeds, rtol=0, atol=1e-5)


@torch.no_grad()
def test_embeddings_equal_transformers(pair: DualPair) -> None:
    """Unit vectors of one space; without the task there are none."""
    image = make_image(90, 50)
    result = pair.theirs(**pair.processor(image, return_tensors="pt"), **pair.ids(list(TEXTS)))
    output = pair.ours.run("embed", [Item(pair.encode(image), TEXTS)])[0]
    assert np.allclose(output.embedding, result.image_embeds[0], atol=1e-5)
    assert np.allclose([text.embedding for text in output.texts], result.text_embeds, atol=1e-5)
    assert output.embedding.shape == (pair.ours.info.dimensions,)
    assert run(pair, pair.encode(image), *TEXTS).embedding is None


@torch.no_grad()
def test_clips_maps_are_cosines_of_patches_and_tokens(clip: DualPair) -> None:
    """Patches through the norm and projection of the image; the token before the end through that of the text."""
    image = make_image(90, 50)
    values = clip.processor(image, return_tensors="pt")["pixel_values"]
    tower = clip.theirs.vision_model
    patches = clip.theirs.visual_projection(tower.post_layernorm(tower(values).last_hidden_state[:, 1:]))[0]
    encoded = clip.ids([TEXTS[0]])
    states = clip.theirs.text_projection(clip.theirs.text_model(**encoded).last_hidden_state)[0]
    expected = F.normalize(states, dim=-1) @ F.normalize(patches, dim=-1).T
    text = run(clip, clip.encode(image), TEXTS[0], maps=MapRequest()).texts[0]
    assert len(text.tokens) == len(expected)
    for token, row in zip(text.tokens, expected, strict=True):
        np.testing.assert_allclose(token.map.values, row.view(3, 3).numpy(), atol=1e-5)
        assert token.map.elsewhere == 0.0
    np.testing.assert_allclose(text.answer_map.values, expected[-1].view(3, 3).numpy(), atol=1e-5)


@torch.no_grad()
def test_siglips_patches_are_pooled_alone(siglip: DualPair) -> None:
    """The pooling head, given one patch, gives that patch's feature."""
    image = make_image(90, 50)
    values = siglip.processor(image, return_tensors="pt")["pixel_values"]
    tower = siglip.theirs.vision_model
    states = tower(values).last_hidden_state[0]
    patches = F.normalize(torch.stack([tower.head(state[None, None])[0] for state in states]), dim=-1)
    whole = siglip.theirs.get_text_features(**siglip.ids([TEXTS[0]])).pooler_output
    expected = (F.normalize(whole, dim=-1) @ patches.T).view(3, 3)
    text = run(siglip, siglip.encode(image), TEXTS[0], maps=MapRequest()).texts[0]
    np.testing.assert_allclose(text.answer_map.values, expected.numpy(), atol=1e-5)


def test_a_patch_that_changes_is_where_the_map_changes(clip: DualPair) -> None:
    """The map lies the right way round: with the towers' mixing taken out, one patch is one cell."""
    for layer in (ours := clip.ours.net.vision_model.encoder.layers):
        layer.kept = layer.self_attn.out_proj.weight.data, layer.self_attn.out_proj.bias.data
        layer.self_attn.out_proj.weight.data = torch.zeros_like(layer.kept[0])
        layer.self_attn.out_proj.bias.data = torch.zeros_like(layer.kept[1])
    try:
        plain = make_image(96, 48)
        marked = plain.copy()
        marked.paste((255, 0, 0), (24 + 33, 1, 24 + 46, 15))  # in the crop's upper right cell
        maps = [run(clip, clip.encode(i), TEXTS[0], maps=MapRequest()).texts[0].answer_map for i in (plain, marked)]
        changed = np.abs(maps[0].values - maps[1].values) > 1e-6
        assert changed.tolist() == [[False, False, True], [False, False, False], [False, False, False]]
    finally:
        for layer in ours:
            layer.self_attn.out_proj.weight.data, layer.self_attn.out_proj.bias.data = layer.kept


def test_a_batch_is_as_one_at_a_time(pair: DualPair) -> None:
    """Several images, texts of several lengths, some in common."""
    images = [pair.encode(make_image(90, 50, seed=s)) for s in range(2)]
    items = [Item(images[0], TEXTS, maps=MapRequest()), Item(images[1], TEXTS[1:]), Item(images[1], TEXTS[:1])]
    for item, output in zip(items, pair.ours.run("match", items), strict=True):
        alone = run(pair, item.image, *item.texts, maps=item.maps)
        for found, expected in zip(output.texts, alone.texts, strict=True):
            assert found.ranking[0].score == pytest.approx(expected.ranking[0].score, abs=1e-5)
            assert [t.span for t in found.tokens] == [t.span for t in expected.tokens]
            for a, b in zip(found.tokens, expected.tokens, strict=True):
                np.testing.assert_allclose(a.map.values, b.map.values, atol=1e-5)


def test_spans_are_in_the_text_as_sent(pair: DualPair) -> None:
    """Also where a tokenizer drops case and punctuation."""
    sent = "The RED cat, on  what? The cat!"
    text = run(pair, pair.encode(make_image(50, 50)), sent, maps=MapRequest()).texts[0]
    found = [sent[slice(*token.span)].strip().lower() for token in text.tokens if token.span]
    pieces = [t.text.replace("</w>", "").replace("▁", "").strip() for t in text.tokens if t.span]
    assert found == pieces
    assert [word.text for word in text.words] == ["The", "RED", "cat", "on", "what", "The", "cat"]
    spans = [token.span for token in text.tokens if token.span]
    assert spans == sorted(spans)


def test_what_cannot_be_run(pair: DualPair) -> None:
    image = pair.encode(make_image(50, 50))
    long, layers, task = (
        pair.ours.run("match", [Item(image, ("cat", "the cat " * 40))])[0],
        pair.ours.run("match", [Item(image, ("cat",), maps=MapRequest(layers=(0,)))])[0],
        pair.ours.run("answer", [Item(image, ("cat",))])[0],
    )
    assert (long.code, long.index) == ("question_too_long", 1)
    assert layers.code == "map_not_supported"
    assert task.code == "task_not_supported"
