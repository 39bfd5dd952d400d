"""ViLT here says what transformers' own says, and its maps are the attention that it used."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.interface import Item, ItemError, MapRequest, Output
from model.published.loading import load
from model.published.vilt import answer as vilt_answer
from model.published.vilt.stream import Stream, StreamAttention
from tests.model.published.checkpoints import make_image
from tests.model.published.vilt.conftest import ANSWERS, ViltPair, save_vilt, vilt_net

QUESTIONS = ("what is the color of the cat?", "a dog", "how many are there in this photo, two or 3?")
SHAPES = ((90, 50), (50, 90), (64, 64), (300, 64), (60, 210))


def ask(ours: Any, image: Any, *texts: str, maps: MapRequest | None = None, **options: Any) -> Output:
    """One item through ours."""
    [output] = ours.run("answer", [Item(image, texts, maps=maps, **options)])
    assert isinstance(output, Output), output
    return output


def assert_equal(ours: Any, pair: ViltPair, shape: tuple[int, int]) -> None:
    """Logits and raw maps of every layer to 1e-5."""
    image = make_image(*shape)
    [encoded] = ours.encode([ours.info.preprocess(image)])
    for question in QUESTIONS:
        logits, attention = pair.ask(image, question)
        for layer in range(3):
            [text] = ask(ours, encoded, question, maps=MapRequest("raw", (layer,)), top_k=len(ANSWERS)).texts
            scores = {one.answer: one.score for one in text.ranking}
            expected = dict(zip(ANSWERS, logits.sigmoid().tolist(), strict=True))
            assert scores == pytest.approx(expected, abs=1e-5)
            tokens = len(text.tokens)
            rows = attention[layer].mean(0)[:tokens, tokens + 1 :].numpy()
            for token, row in zip(text.tokens, rows, strict=True):
                np.testing.assert_allclose(np.ravel(token.map.values), row, atol=1e-5)
                assert token.map.elsewhere == pytest.approx(1.0 - row.sum(), abs=1e-5)
            np.testing.assert_allclose(np.ravel(text.answer_map.values), rows[0], atol=1e-5)


def test_attention_is_peaked(vilt: ViltPair) -> None:
    """On flat attention a wrong map would pass."""
    _, attention = vilt.ask(make_image(90, 50), QUESTIONS[0])
    rows = torch.stack(attention)
    entropy = -(rows * rows.clamp_min(1e-30).log()).sum(-1).mean()
    assert entropy < 0.5 * math.log(rows.shape[-1])


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_and_maps_equal_transformers(vilt: ViltPair, shape: tuple[int, int]) -> None:
    assert_equal(vilt.ours, vilt, shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_and_grid_are_those_of_transformers(vilt: ViltPair, shape: tuple[int, int]) -> None:
    image = make_image(*shape)
    pixels = vilt.ours.info.preprocess(image)
    theirs = vilt.inputs([image], ["a dog"])["pixel_values"][0]
    ours = vilt_answer.to_input([pixels], vilt.ours._normalization, torch.device("cpu"), torch.float32)[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    geometry = pixels.geometry
    assert (geometry.rows, geometry.columns) == (theirs.shape[1] // 16, theirs.shape[2] // 16)
    assert (geometry.region.right, geometry.region.bottom) == shape


def test_a_very_long_image_has_a_patch(vilt: ViltPair) -> None:
    pixels = vilt.ours.info.preprocess(make_image(2000, 3))
    assert pixels.values.shape == (16, 64, 3)
    [image] = vilt.ours.encode([pixels])
    [text] = ask(vilt.ours, image, "a dog", maps=MapRequest()).texts
    assert np.shape(text.answer_map.values) == (1, 4)


@pytest.mark.parametrize("mutant", ["class token", "row by one", "columns", "mask", "order", "residual"])
def test_a_mutant_is_noticed(vilt: ViltPair, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the comparisons would let pass, they would not be worth running."""
    ours = load(vilt.folder, id="mutant")
    assert_equal(ours, vilt, SHAPES[0])
    if mutant == "class token":
        monkeypatch.setattr(vilt_answer, "FIRST_PATCH", 0)
    elif mutant == "row by one":
        forward = Stream.forward

        def rolled(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = forward(self, *args, **kwargs)
            result.maps = [one.roll(1, 1) for one in result.maps]
            return result

        monkeypatch.setattr(Stream, "forward", rolled)
    elif mutant == "columns":
        with_maps = ours._with_maps
        ours._with_maps = lambda f, text, t, looked, i, m: with_maps(f, text, t, looked.roll(1, 1), i, m)
    elif mutant == "order":
        embed = ours._embed_image
        ours._embed_image = lambda image: torch.cat([(s := embed(image))[:, :1], s[:, 1:].flip(1)], 1)
    elif mutant == "residual":
        attend = StreamAttention.forward
        monkeypatch.setattr(StreamAttention, "forward", lambda s, x, *a: (0.9 * (r := attend(s, x, *a))[0], r[1]))
    if mutant == "mask":
        batch = ours._batch
        ours._batch = lambda *args: type(b := batch(*args))(b.embedded, None, b.text)
        with pytest.raises(AssertionError):
            assert_batch_is_alone(ours, "raw")
    else:
        with pytest.raises(AssertionError):
            assert_equal(ours, vilt, SHAPES[0])


def assert_batch_is_alone(ours: Any, kind: Any) -> None:
    """Several images of several shapes and texts of several lengths in one call."""
    images = [ours.encode([ours.info.preprocess(make_image(*s, seed=i))])[0] for i, s in enumerate(SHAPES[:3])]
    maps = None if kind is None else MapRequest(kind, (0, 2))
    items = [
        Item(images[0], QUESTIONS, maps=maps),
        Item(images[1], QUESTIONS[1:], maps=maps),
        Item(images[2], QUESTIONS[:1], maps=maps, candidates=("a red  cat", "cat", "YES ")),
    ]
    for item, output in zip(items, ours.run("answer", items), strict=True):
        for text, found in zip(item.texts, output.texts, strict=True):
            [alone] = ask(ours, item.image, text, maps=maps, candidates=item.candidates).texts
            assert [r.answer for r in found.ranking] == [r.answer for r in alone.ranking]
            scores = [r.score for r in alone.ranking]
            assert [r.score for r in found.ranking] == pytest.approx(scores, abs=1e-5)
            for a, b in zip(found.tokens, alone.tokens, strict=True):
                assert (a.text, a.span) == (b.text, b.span)
                np.testing.assert_allclose(a.map.values, b.map.values, atol=1e-5, rtol=1e-3)
            if kind is not None:
                np.testing.assert_allclose(found.answer_map.values, alone.answer_map.values, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", [None, "raw", "gradient", "rollout"])
def test_a_batch_is_as_one_at_a_time(vilt: ViltPair, kind: Any) -> None:
    assert_batch_is_alone(vilt.ours, kind)


def test_an_encoded_image_is_as_a_new_one(vilt: ViltPair) -> None:
    """Encoded with others and asked twice, or anew for each question."""
    pixels = [vilt.ours.info.preprocess(make_image(80, 60, seed=s)) for s in range(2)]
    kept = vilt.ours.encode(pixels)[1]
    for question in QUESTIONS:
        [anew] = vilt.ours.encode(pixels[1:])
        assert ask(vilt.ours, kept, question) == ask(vilt.ours, anew, question)
    assert kept.nbytes == kept.states.untyped_storage().nbytes()


@torch.enable_grad()
def test_gradient_maps_are_autograds(vilt: ViltPair) -> None:
    """From a pass of transformers' own, with attention scores as leaves of the graph."""
    image, question = make_image(90, 50), QUESTIONS[0]
    [text] = ask(vilt.ours, vilt.encode(image)[0], question, maps=MapRequest("gradient", (1,))).texts
    attention = vilt.theirs.vilt.encoder.layer[1].attention.attention
    shifts: list[torch.Tensor] = []
    softmax = torch.nn.Softmax.forward

    def shifted(self: Any, scores: torch.Tensor) -> torch.Tensor:
        shifts.append(torch.zeros_like(scores, requires_grad=True))
        return softmax(self, scores + shifts[-1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Softmax, "forward", shifted)
        inputs = vilt.inputs([image], [question])
        torch.manual_seed(3)
        logits = vilt.theirs(**inputs).logits
    assert attention is not None
    [found] = torch.autograd.grad(logits.max(), [shifts[1]])
    torch.manual_seed(3)
    _, _, (places, (_, columns)) = vilt.theirs.vilt.embeddings.visual_embed(
        inputs["pixel_values"], inputs["pixel_mask"], max_image_length=-1
    )
    order = (places[0, :, 0] * columns + places[0, :, 1]).argsort()
    tokens = len(text.tokens)
    rows = found[0].relu().mean(0)[:tokens, tokens + 1 :][:, order].numpy()
    for token, row in zip(text.tokens, rows, strict=True):
        np.testing.assert_allclose(np.ravel(token.map.values), row, atol=1e-5, rtol=1e-3)
    np.testing.assert_allclose(np.ravel(text.answer_map.values), rows.sum(0), atol=1e-5, rtol=1e-3)


def test_rollout_is_the_product_of_the_layers(vilt: ViltPair) -> None:
    image, question = make_image(90, 50), QUESTIONS[0]
    [text] = ask(vilt.ours, vilt.encode(image)[0], question, maps=MapRequest("rollout")).texts
    _, attention = vilt.ask(image, question)
    flow = torch.eye(attention[0].shape[-1])
    for one in attention:
        flow = 0.5 * (one.mean(0) + torch.eye(len(flow))) @ flow
    tokens = len(text.tokens)
    for token, row in zip(text.tokens, flow[:tokens, tokens + 1 :].numpy(), strict=True):
        np.testing.assert_allclose(np.ravel(token.map.values), row, atol=1e-5)
        assert np.sum(token.map.values) + token.map.elsewhere == pytest.approx(1.0, abs=1e-5)


def test_candidates_are_the_models_own_answers(vilt: ViltPair) -> None:
    image = make_image(90, 50)
    [encoded] = vilt.encode(image)
    logits, _ = vilt.ask(image, QUESTIONS[0])
    [text] = ask(vilt.ours, encoded, QUESTIONS[0], candidates=("CAT", "a house", "no")).texts
    cat, no = logits.sigmoid()[[2, 0]].tolist()
    scores = {one.answer: (one.score, one.in_vocabulary) for one in text.ranking}
    assert scores["CAT"] == (pytest.approx(cat / (cat + no), abs=1e-5), True)
    assert scores["a house"] == (0.0, False)
    assert text.score_over == "candidates"
    [refused] = vilt.ours.run("answer", [Item(encoded, ("a dog",), candidates=("a house",))])
    assert isinstance(refused, ItemError)
    assert refused.code == "task_not_supported"


def test_masked_patches_are_not_seen(vilt: ViltPair) -> None:
    image = make_image(90, 50)
    [encoded] = vilt.encode(image)
    geometry = encoded.geometry
    keep = np.ones((2, geometry.rows, geometry.columns), bool)
    keep[1] = False
    logits, _ = vilt.ask(image, "a dog")
    moved = []
    for place, answer in enumerate(ANSWERS):
        whole, part = vilt.ours.score_masked(encoded, "a dog", keep, answer)
        assert whole == pytest.approx(logits.sigmoid()[place].item(), abs=1e-5)
        moved.append(abs(part - whole))
    assert max(moved) > 1e-3


def test_settings_that_make_no_sense_are_said(tmp_path: Path) -> None:
    save_vilt(tmp_path, vilt_net())
    path = tmp_path / "preprocessor_config.json"
    found = path if path.exists() else tmp_path / "processor_config.json"
    settings = json.loads(found.read_text())
    for name, value in (("size", {"shortest_edge": 3}), ("size_divisor", 24), ("resample", 99)):
        found.write_text(json.dumps(settings | {name: value}))
        with pytest.raises(ValueError, match=r"size|patches|resample"):
            load(tmp_path, id="vilt")
