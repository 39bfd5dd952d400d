"""Gradient and rollout maps of BLIP, against what autograd and a plain loop make of transformers' own model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from model.interface import Item, MapRequest
from model.published.loading import load
from model.published.map_passes import GradientPass
from tests.model.published import checkpoints
from tests.model.published.checkpoints import make_image
from tests.model.published.conftest import Pair

TEXT = "what is the color of the cat?"


@contextmanager
def probabilities(stack: Any, part: str) -> Iterator[list[torch.Tensor]]:
    """The attention probabilities ``[rows, heads, tokens, keys]`` of each layer, as part of the graph."""
    kept: list[torch.Tensor] = []
    handles = [
        getattr(layer, part).self.register_forward_hook(lambda _m, _a, output: kept.append(output[1]))
        for layer in stack.encoder.layer
    ]
    yield kept
    for handle in handles:
        handle.remove()


def weighted(score: torch.Tensor, kept: list[torch.Tensor], layers: tuple[int, ...]) -> torch.Tensor:
    """The mean over layers and heads of relu(dS), by autograd through the probabilities: ``[tokens, keys]``."""
    gradients = torch.autograd.grad(score, kept, retain_graph=True)
    maps = [_of_scores(kept[i], gradients[i]).relu().mean(1)[0] for i in layers]
    return torch.stack(maps).mean(0).detach()


def _of_scores(probabilities: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The gradient with respect to what the softmax was given, from that with respect to what it made."""
    scores = probabilities.detach().log().requires_grad_()
    return torch.autograd.grad(scores.softmax(-1), scores, gradient)[0]


def near(found: Any, expected: torch.Tensor) -> None:
    """A map and its row of attention-like values, first key no place."""
    scale = expected.abs().max().item()
    np.testing.assert_allclose(found.values.ravel(), expected[1:].numpy(), atol=1e-4 * scale, rtol=1e-3)
    assert found.elsewhere == pytest.approx(expected[0].item(), abs=1e-4 * scale)


def run(pair: Pair, image: Any, text: str, maps: MapRequest) -> Any:
    """One text through ours."""
    encoded = pair.encode(image)[0]
    return pair.ours.run(pair.ours.task, [Item(encoded, (text,), maps=maps)])[0].texts[0]


@pytest.mark.parametrize("layers", [(0, 1, 2), (1,)])
def test_gradient_maps_of_matching(match: Pair, layers: tuple[int, ...]) -> None:
    image = make_image(90, 50)
    text = run(match, image, TEXT, MapRequest("gradient", layers))
    ids, mask = match.ids(TEXT)
    with probabilities(match.theirs.text_encoder, "crossattention") as kept:
        score = match.theirs(ids, match.pixels(image), attention_mask=mask).itm_score[0]
    expected = weighted(score[1] - score[0], kept, layers)
    for token, row in zip(text.tokens, expected, strict=True):
        near(token.map, row)
    near(text.answer_map, expected.sum(0))


def test_gradient_maps_of_an_answer(answer: Pair) -> None:
    """The question's come from the log-probability of the whole answer, each answer token's from its own."""
    image = make_image(90, 50)
    text = run(answer, image, TEXT, MapRequest("gradient", (0, 2)))
    config = answer.theirs.config.text_config
    ids, mask = answer.ids(TEXT)
    said = [answer.ours.tokenizer.hub.convert_tokens_to_ids(token.text) for token in text.answer_tokens]
    fed = torch.tensor([[config.bos_token_id, *said]])
    features = answer.theirs.vision_model(answer.pixels(image)).last_hidden_state.detach()
    with probabilities(answer.theirs.text_encoder, "crossattention") as kept:
        states = answer.theirs.text_encoder(ids, mask, encoder_hidden_states=features).last_hidden_state
        logits = answer.theirs.text_decoder(fed, encoder_hidden_states=states).logits
    targets = torch.tensor([*said, config.sep_token_id])
    scores = logits[0].log_softmax(-1)[range(len(targets)), targets]
    whole = weighted(scores.sum(), kept, (0, 2))
    for token, row in zip(text.tokens, whole, strict=True):
        near(token.map, row)
    near(text.answer_map, whole.sum(0))
    for place, token in enumerate(text.answer_tokens):
        near(token.map, weighted(scores[place], kept, (0, 2)).sum(0))


def test_gradient_maps_of_a_caption(caption: Pair) -> None:
    image = make_image(90, 50)
    text = run(caption, image, "a photo", MapRequest("gradient"))
    config = caption.theirs.config.text_config
    said = [caption.ours.tokenizer.hub.convert_tokens_to_ids(token.text) for token in text.answer_tokens]
    with probabilities(caption.theirs.text_decoder.bert, "crossattention") as kept:
        fed = torch.tensor([[config.bos_token_id, *said]])
        logits = caption.theirs(caption.pixels(image), fed).logits
    targets = torch.tensor([*said, config.sep_token_id])[2:]  # what the two tokens of the prompt led to
    scores = logits[0, 2:].log_softmax(-1)[range(len(targets)), targets]
    expected = weighted(scores.sum(), kept, (0, 1, 2))
    for token, row in zip(text.answer_tokens, expected[1:], strict=True):
        near(token.map, row)


@pytest.mark.parametrize(("task", "loudness"), [("answer", 30), ("caption", 10), ("caption", 30), ("match", 30)])
def test_loud_gradients_do_not_overflow_in_float16(task: str, loudness: float, tmp_path: Path) -> None:
    """The scale that keeps small gradients from vanishing would make infinities of large ones, and no map of them."""
    net = checkpoints.blip_net(task)
    head = net.itm_head if task == "match" else net.text_decoder.cls.predictions.decoder
    with torch.no_grad():
        head.weight.mul_(loudness)
    checkpoints.save_blip(tmp_path, net)
    half, full = (load(tmp_path, id=task, dtype=dtype) for dtype in ("float16", "float32"))
    item = Item(None, ("what is the color", "how many dog"), maps=MapRequest("gradient"))  # type: ignore[arg-type]
    found = []
    for model in (half, full):
        images = model.encode([model.info.preprocess(make_image(50, 40, seed=i)) for i in range(4)])
        outputs = model.run(task, [replace(item, image=image) for image in images])  # type: ignore[arg-type]
        found.append([text for output in outputs for text in output.texts])  # type: ignore[union-attr]
    for a, b in zip(*found, strict=True):
        assert np.isfinite(a.answer_map.values).all()
        assert np.isfinite(a.answer_map.elsewhere)
        if a.ranking[0].answer == b.ranking[0].answer:
            near_half(a.answer_map.values, b.answer_map.values)


def near_half(found: Any, expected: Any) -> None:
    """As near as float16, with its eleven binary digits, comes through a few layers."""
    assert np.abs(found - expected).max() < 0.1 * expected.max()


def test_a_loud_text_takes_no_digits_from_a_quiet_one() -> None:
    """Only what overflows is computed again at a smaller scale; the rest keeps the largest."""
    weights = torch.tensor([1e-7, 2.0, 300.0, 65000.0], dtype=torch.float16)
    attended = torch.ones(4, dtype=torch.float16, requires_grad=True)
    call = SimpleNamespace(attended=attended)
    scalar = (attended * weights).float().sum()
    (found,) = GradientPass([[call]], (0,), ()).backward(scalar)  # type: ignore[list-item]
    torch.testing.assert_close(found, weights.float())


@torch.no_grad()
@pytest.mark.parametrize("layers", [(0, 1, 2), (0, 2)])
def test_rollout_follows_the_text_through_its_own_attention(match: Pair, layers: tuple[int, ...]) -> None:
    """A token's share of each key, step by step in plain numpy; with the text's own share it is 1."""
    image = make_image(90, 50)
    text = run(match, image, TEXT, MapRequest("rollout", layers))
    ids, mask = match.ids(TEXT)
    stack = match.theirs.text_encoder
    with probabilities(stack, "attention") as own, probabilities(stack, "crossattention") as cross:
        match.theirs(ids, match.pixels(image), attention_mask=mask)
    tokens, keys = cross[0].shape[2:]
    flow = np.concatenate([np.eye(tokens), np.zeros((tokens, keys))], 1)  # shares of the text's tokens, of the keys
    for index, (a, c) in enumerate(zip(own, cross, strict=True)):
        flow = 0.5 * flow + 0.5 * a.mean(1)[0].double().numpy() @ flow
        if index in layers:
            looked = np.concatenate([np.zeros((tokens, tokens)), c.mean(1)[0].double().numpy()], 1)
            flow = 0.5 * flow + 0.5 * looked
    assert flow.sum(1) == pytest.approx(1.0)
    for token, row in zip(text.tokens, flow[:, tokens:], strict=True):
        np.testing.assert_allclose(token.map.values.ravel(), row[1:], atol=1e-5)
        assert token.map.values.sum() + token.map.elsewhere == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(text.answer_map.values, text.tokens[0].map.values)


def test_gradient_maps_need_no_special_kernel(answer: Pair) -> None:
    """A kernel without a gradient is set aside for the pass, and set back."""
    from model.cross_attention import set_kernel

    image = make_image(90, 50)
    expected = run(answer, image, TEXT, MapRequest("gradient"))
    set_kernel(answer.ours.net, "blocked")
    try:
        found = run(answer, image, TEXT, MapRequest("gradient"))
        assert all(layer.kernel == "blocked" for layer in answer.ours.stack.cross_layers)
    finally:
        set_kernel(answer.ours.net, "auto")
    np.testing.assert_allclose(found.answer_map.values, expected.answer_map.values, rtol=1e-4)
