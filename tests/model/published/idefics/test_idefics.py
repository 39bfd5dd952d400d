"""Idefics here says what transformers' own says, and its maps are composed of the attention that it used."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from model.interface import MapRequest
from model.published.idefics.resampler import Resampler
from model.published.loading import load
from model.published.prompted.cross_reader import CrossBlock
from tests.model.published.checkpoints import make_image
from tests.model.published.idefics.conftest import IdeficsPair, Theirs
from tests.model.published.writers import (
    QUESTIONS,
    SHAPES,
    SHORT,
    ask,
    assert_batch_is_alone,
    assert_defaults_are_followed,
    assert_kept_is_as_new,
    assert_maps,
    assert_peaked,
    assert_spans,
    roll_maps,
)


def rows_of(theirs: Theirs, layer: int, before: int) -> torch.Tensor:
    """``[n + m, image keys]``: of one gated layer; rows before the image get nothing."""
    rows = theirs.crossed[layer].mean(0)
    rows[:before] = 0
    if theirs.resampled:
        looked = torch.stack([heads.mean(0) for heads in theirs.resampled]).mean(0)
        rows = rows @ looked[:, : -len(looked)]
    return rows


def assert_equal(ours: Any, pair: IdeficsPair, shape: tuple[int, int]) -> None:
    """Tokens, logits and raw maps of each layer to 1e-5."""
    image = make_image(*shape, seed=shape[0])
    [encoded] = ours.encode([ours.info.preprocess(image)])
    for question in QUESTIONS:
        made, ids = pair.generate(image, question, max_new_tokens=6, eos_token_id=list(ours.ends)), pair.ids(question)
        prompt, theirs = ours._prompt("answer", question), pair.look(image, question, made)
        assert prompt.ids == ids
        forced = ours._forced([prompt], [encoded], torch.tensor([made]), None)
        allowed = forced.logits[0].isfinite().all(0)
        assert (~allowed).nonzero().flatten().tolist() == sorted(pair.banned)
        expected = theirs.logits[len(ids) - 1 :, allowed]
        torch.testing.assert_close(forced.logits[0][:, allowed], expected, rtol=0, atol=1e-5)
        kept = [token for token in made if token not in ours.ends]
        for place, layer in enumerate((0, 2)):
            [text] = ask(ours, encoded, question, maps=MapRequest("raw", (layer,)), generation=SHORT).texts
            assert text.ranking[0].answer == ours.tokenizer.decode(kept)
            rows = rows_of(theirs, place, ids.index(pair.banned[0]))
            written = rows[len(ids) - 1 : len(ids) - 1 + len(kept)]
            assert_maps([*text.tokens, *text.answer_tokens], torch.cat([rows[: len(ids)], written]))
            np.testing.assert_allclose(np.ravel(text.answer_map.values), written.mean(0)[1:], atol=1e-5)


def test_attention_is_peaked(idefics: IdeficsPair) -> None:
    theirs = idefics.look(make_image(90, 50), QUESTIONS[0], [])
    before = idefics.ids(QUESTIONS[0]).index(idefics.banned[0])
    for heads in (*(one[:, before:] for one in theirs.crossed), *theirs.resampled):
        assert_peaked(heads)


@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_logits_and_maps_equal_transformers(idefics: IdeficsPair, shape: tuple[int, int]) -> None:
    assert_equal(idefics.ours, idefics, shape)


@pytest.mark.parametrize(
    "mutant", ["columns", "row by one", "gate", "mask", "latents", "no cross-attention", "no feed-forward gate"]
)
def test_a_mutant_is_noticed(idefics: IdeficsPair, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the comparison would let pass, it would not be worth running."""
    ours = load(idefics.folder, id="mutant")
    ours.net.double()
    forward, blocks = CrossBlock.forward, ours.stack.blocks
    if mutant in ("columns", "row by one"):
        roll_maps(monkeypatch, 2 if mutant == "columns" else 1)
    elif mutant == "gate":
        blocks[0].gate = torch.nn.Parameter(torch.full((1,), 30.0, dtype=torch.float64))
    elif mutant == "no feed-forward gate":
        blocks[0].mlp_gate = torch.nn.Parameter(torch.full((1,), 30.0, dtype=torch.float64))
    elif mutant == "mask":
        monkeypatch.setattr(ours, "seen", lambda ids: None)
    elif mutant == "no cross-attention":
        monkeypatch.setattr(CrossBlock, "forward", lambda s, x, *a, **k: (x, forward(s, x, *a, **k)[1]))
    elif idefics.ours.resampler is None:
        pytest.skip("it has no latents")
    else:
        resample = Resampler.forward
        monkeypatch.setattr(Resampler, "forward", lambda s, x: ((r := resample(s, x))[0], r[1].flip(1)))
    with pytest.raises(AssertionError):
        assert_equal(ours, idefics, SHAPES[0])


@pytest.mark.parametrize("maps", [None, MapRequest("raw", (2,)), MapRequest()])
def test_a_batch_is_as_one_at_a_time(idefics: IdeficsPair, maps: MapRequest | None) -> None:
    images = idefics.encode(make_image(90, 50, seed=1), make_image(40, 70, seed=2))
    assert_batch_is_alone(idefics.ours, images, maps)


def test_an_encoded_image_is_as_a_new_one(idefics: IdeficsPair) -> None:
    """Encoded among others and asked again and again, or anew for each question."""
    pixels = [idefics.ours.info.preprocess(make_image(80, 60, seed=s)) for s in range(2)]
    kept = idefics.ours.encode(pixels)[1]
    assert_kept_is_as_new(idefics.ours, kept, pixels[1])
    tensors = [tensor for layer in kept.layers for tensor in layer]
    tensors += [] if kept.latent_map is None else [kept.latent_map]
    assert kept.nbytes == sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def test_keys_and_values_are_made_once_an_image(idefics: IdeficsPair) -> None:
    """transformers projects them at every step."""
    [encoded] = idefics.encode(make_image(90, 50))
    with pytest.MonkeyPatch.context() as patch:
        for block in idefics.ours.stack.blocks:
            patch.setattr(block.attention.wk, "forward", lambda *_: pytest.fail("projected again"))
        ask(idefics.ours, encoded, QUESTIONS[0], maps=MapRequest(), generation=SHORT)


def test_what_is_said_of_maps(idefics: IdeficsPair) -> None:
    [encoded] = idefics.encode(make_image(90, 50))
    output = ask(idefics.ours, encoded, QUESTIONS[0], maps=MapRequest(layers=(2,)), generation=SHORT)
    assert output.maps is not None
    composed = idefics.ours.resampler is not None
    assert output.maps.composition == ("answer>latents>image" if composed else None)
    assert [step.layers for step in output.maps.steps] == ([(2,), (0, 1)] if composed else [])
    gate = idefics.theirs.model.gated_cross_attn_layers[1].alpha_cross_attn.tanh()
    expected = gate.item() if gate.numel() == 1 else gate.abs().mean().item()
    assert output.maps.gates == pytest.approx((expected,))
    [text] = output.texts
    assert_spans(QUESTIONS[0], text.tokens)
    assert text.tokens[0].special
    assert text.tokens[0].map is not None
    assert text.tokens[0].map.elsewhere == pytest.approx(1.0)


@pytest.mark.parametrize("prompt", ["", "a photo of the"])
def test_captions(idefics: IdeficsPair, prompt: str) -> None:
    [encoded] = idefics.encode(make_image(90, 50, seed=3))
    [text] = ask(idefics.ours, encoded, prompt, task="caption", maps=MapRequest(), generation=SHORT).texts
    caption = text.ranking[0].answer
    assert caption.startswith(prompt) or idefics.folder.name.startswith("instruct")
    for word in text.answer_words:
        assert caption[slice(*word.span)] == word.text


def test_what_the_folder_says_of_writing_holds(idefics: IdeficsPair) -> None:
    image = make_image(64, 64)
    assert_defaults_are_followed(idefics.ours, idefics.encode(image)[0], partial(idefics.generate, image, QUESTIONS[0]))
