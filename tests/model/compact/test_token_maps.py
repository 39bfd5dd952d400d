"""The maps of the tiny compact model, each kind against a plain second way to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import model.cross_attention
from model.compact.fusion import FusionLayer
from model.compact.model import CompactImage, CompactModel, tiny
from model.compact.network import CompactNet, Fused, own_tokens
from model.compact.text_encoder import pad_ids, tokenize
from model.compact.token_maps import gradient_rows
from model.cross_attention import set_kernel
from model.interface import Item, ItemError, Map, MapInfo, MapRequest, Output
from model.kernels import AttentionResult
from tests.model.tools import QUESTIONS, ask, encode, near, noise, run

KINDS: list[Any] = ["raw", "gradient", "rollout"]
TEXT = "How many cats are there in this?"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["answer", "match"])
def test_each_text_of_a_group_has_the_maps_that_it_has_alone(kind: Any, task: Any) -> None:
    model = tiny()
    (image,) = encode(model, noise())
    together = ask(model, image, *QUESTIONS, task=task, maps=MapRequest(kind))
    for text, found in zip(QUESTIONS, together, strict=True):
        (alone,) = ask(model, image, text, task=task, maps=MapRequest(kind))
        near(replace(found, ranking=alone.ranking) if task == "match" else found, alone, 1e-4)


@pytest.fixture(scope="module")
def tiny_model() -> CompactModel:
    """With biases of the answers, as training makes them."""
    made = tiny()
    with torch.no_grad():
        made.net.head.bias.copy_(torch.linspace(-1, 2, 8))
    return made


@pytest.fixture
def explicit(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Cross-attention written out: the scores ``[images, heads, tokens, keys]`` of each call, in the graph."""
    kept: list[Tensor] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> AttentionResult:
        kept.append(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5)
        probabilities = kept[-1].softmax(-1)
        return AttentionResult(probabilities @ v, probabilities.mean(1))

    monkeypatch.setattr(model.cross_attention, "cross_attention", attend)
    return kept


def row(found: Map | None) -> np.ndarray:
    """The map as one row of keys: elsewhere, then the patches."""
    assert found is not None
    return np.concatenate([[found.elsewhere], found.values.ravel()])


def forward(
    net: CompactNet, tokenizer: Any, image: Any, text: str, *, gradient: bool = False
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The answer's logits, the maps, and what every layer of the fusion was given, of one text."""
    assert isinstance(image, CompactImage)
    ids, mask = pad_ids([tokenize(tokenizer, text).ids])
    given: list[Tensor] = []
    layers = (*net.fusion.layers, net.fusion.gather)
    handles = [layer.register_forward_pre_hook(lambda _l, a: given.append(a[0])) for layer in layers]
    with torch.set_grad_enabled(gradient):
        states = net.text(ids, mask).detach().requires_grad_(gradient)
        fused = net.fuse_states(states, mask, [(image.state, 1)], need_maps=True)
        logits = net.logits(fused.vector)[0]
    for handle in handles:
        handle.remove()
    return logits, fused.maps, given


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [None, (0,), (1,)])
def test_every_map_is_a_whole(tiny_model: CompactModel, kind: Any, layers: tuple[int, ...] | None) -> None:
    """Non-negative, of the grid's shape, and 1 with what is elsewhere."""
    image, other = encode(tiny_model, noise(0), noise(1))
    output, _ = run(
        tiny_model,
        Item(image, QUESTIONS, maps=MapRequest(kind, layers)),
        Item(other, QUESTIONS[:1], maps=MapRequest(kind, layers)),
    )
    assert output.maps == MapInfo(kind, layers or (0, 1))
    for text in output.texts:
        for found in [text.answer_map, *(token.map for token in text.tokens)]:
            assert found is not None
            assert found.values.shape == (4, 4)
            assert found.values.dtype == np.float32
            assert found.values.min() >= 0
            assert found.elsewhere >= 0
            assert found.values.sum() + found.elsewhere == pytest.approx(1, abs=1e-5)
        assert text.answer_map is not None
        assert text.answer_map.values.max() > 1e-3


def test_raw_maps_are_the_attention_of_the_pass_that_answered(tiny_model: CompactModel) -> None:
    (image,) = encode(tiny_model, noise())
    _, maps, _ = forward(tiny_model.net, tiny_model.tokenizer, image, TEXT)
    for layers in ((0,), (1,), (0, 1)):
        (text,) = ask(tiny_model, image, TEXT, maps=MapRequest("raw", layers))
        expected = torch.stack([maps[i] for i in layers]).mean(0)[0]
        for token, own in zip(text.tokens, expected, strict=True):
            np.testing.assert_allclose(row(token.map), own, atol=1e-6)
        np.testing.assert_allclose(row(text.answer_map), expected[0], atol=1e-6)


@pytest.mark.parametrize("task", ["answer", "match"])
def test_raw_maps_of_single_heads(tiny_model: CompactModel, explicit: list[Tensor], task: Any) -> None:
    """Each is the softmax of its own scores, whatever else is in the batch; their mean is the map of all, and the
    answer does not change."""
    image, other = encode(tiny_model, noise(0), noise(1))

    def asked(heads: tuple[int, ...] | None) -> Any:
        items = [Item(each, (TEXT,), maps=MapRequest("raw", (1,), heads)) for each in (other, image)]
        found = tiny_model.run(task, items)[1]
        assert isinstance(found, Output)
        assert found.maps == MapInfo("raw", (1,), heads=heads or ())
        return found.texts[0]

    whole, *single = (asked(heads) for heads in (None, (0,), (1,)))
    mean = (row(single[0].answer_map) + row(single[1].answer_map)) / 2
    np.testing.assert_allclose(mean, row(whole.answer_map), atol=1e-6)
    assert not np.allclose(row(single[0].answer_map), row(single[1].answer_map), atol=1e-3)
    assert [each.score for each in single[0].ranking] == pytest.approx([each.score for each in whole.ranking], abs=1e-5)
    explicit.clear()
    forward(tiny_model.net, tiny_model.tokenizer, image, TEXT)
    for head, text in enumerate(single):
        for token, own in zip(text.tokens, explicit[1][0, head].softmax(-1), strict=True):
            np.testing.assert_allclose(row(token.map), own, atol=1e-6)


@pytest.mark.parametrize(("kind", "heads"), [("gradient", (0,)), ("rollout", (0,)), ("raw", (2,)), ("raw", (-1,))])
def test_heads_that_cannot_be_had(tiny_model: CompactModel, kind: Any, heads: tuple[int, ...]) -> None:
    """Of other kinds, and beyond the two that there are."""
    (image,) = encode(tiny_model, noise())
    (found,) = tiny_model.run("answer", [Item(image, (TEXT,), maps=MapRequest(kind, None, heads))])
    assert isinstance(found, ItemError)
    assert found.code == "map_not_supported"


@pytest.mark.parametrize("layers", [(0, 1), (0,), (1,)])
@pytest.mark.parametrize("candidates", [None, ("dog", "a man", "cat")])
def test_gradient_maps_are_what_autograd_finds(
    tiny_model: CompactModel, explicit: list[Tensor], layers: tuple[int, ...], candidates: tuple[str, ...] | None
) -> None:
    """dS by autograd through the scores themselves, so by every way in which the answer depends on them: the attended
    values, and the meaning read under the last map. The map is the geometric mean of what
    of it is positive and the attention; the answer's has both summed over tokens."""
    (image,) = encode(tiny_model, noise())
    (text,) = ask(tiny_model, image, TEXT, candidates=candidates, maps=MapRequest("gradient", layers))
    explicit.clear()
    logits, maps, _ = forward(tiny_model.net, tiny_model.tokenizer, image, TEXT, gradient=True)
    if candidates is None:
        others = logits[torch.arange(len(logits)) != logits.argmax()]
        score = logits.max() - others.logsumexp(0)
    else:
        score = _odds_of_candidates(tiny_model, image, candidates)
    gradients = torch.autograd.grad(score, explicit[-2:])
    looks = [found[0].detach() for found in maps]
    weighted = torch.stack([gradients[i].relu().mean(1)[0] * looks[i] for i in layers]).sum(0).sqrt()
    whole = [gradients[i].sum(2).relu().mean(1)[0] * looks[i][1:-1].sum(0) for i in layers]
    answer = torch.stack(whole).sum(0).sqrt()
    for token, own in zip(text.tokens, weighted, strict=True):
        expected = own / own.sum() if own.sum() > 0 else torch.tensor([1.0, *[0.0] * 16])
        # A token that looks at one key alone has a gradient there of which float32 leaves two or three digits.
        np.testing.assert_allclose(row(token.map), expected, atol=1e-4, rtol=5e-3)
    np.testing.assert_allclose(row(text.answer_map), answer / answer.sum(), atol=1e-4, rtol=5e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_a_match_show_what_it_was_read_through(
    tiny_model: CompactModel, explicit: list[Tensor], kind: Any
) -> None:
    """The answer's is the mean of the text's own tokens', or what autograd finds for the fit, in the last layer."""
    (image,) = encode(tiny_model, noise())
    (text,) = ask(tiny_model, image, TEXT, task="match", maps=MapRequest(kind, (1,)))
    if kind != "gradient":
        own = np.mean([row(token.map) for token in text.tokens if not token.special], 0)
        np.testing.assert_allclose(row(text.answer_map), own, atol=1e-6)
        return
    explicit.clear()
    ids, mask = pad_ids([tokenize(tiny_model.tokenizer, TEXT).ids])
    states = tiny_model.net.text(ids, mask).detach().requires_grad_()
    fused = tiny_model.net.fuse_states(states, mask, [(image.state, 1)], need_maps=True)  # type: ignore[attr-defined]
    (gradient,) = torch.autograd.grad(fused.fit.sum(), explicit[-1:])
    own = (gradient.sum(2).relu().mean(1)[0] * fused.maps[1][0, 1:-1].sum(0).detach()).sqrt().numpy()
    np.testing.assert_allclose(row(text.answer_map), own / own.sum(), atol=1e-4)


@pytest.mark.parametrize("coarse_only", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_gradient_rows_are_autograds_whatever_the_patches(
    monkeypatch: pytest.MonkeyPatch, coarse_only: bool, seed: int
) -> None:
    """Of every layer, text and score, beside autograd through the scores of the whole net; coarse patches, which only
    training has, are weighted in both."""
    net, texts = tiny(seed=seed).net, [[2, 60, 61, 3], [2, 61, 3], [2, 62, 60, 63, 3]]
    ids, mask = pad_ids(texts)
    torch.manual_seed(seed)
    direction = torch.randn(3, net.head.weight.shape[1])
    with torch.no_grad():
        pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
        seen = net.vision(pixels)
        meaning = net.patches.mean(net.vision.classify(seen.coarse).softmax(1))
        state = net.encode_features(seen, meaning, coarse_only=coarse_only)
        states, mask = net.text(ids, mask).repeat(2, 1, 1), mask.repeat(2, 1)

    def score(fused: Fused) -> Tensor:
        return (fused.vector * direction.repeat(2, 1)).sum(1) + 0.3 * fused.fit

    _, found = gradient_rows(net, states, mask, [(state, 3)], (0, 1), score)
    kept: list[Tensor] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, **_options: Any) -> AttentionResult:
        kept.append(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5 + (0 if mask is None else mask))
        return AttentionResult(kept[-1].softmax(-1) @ v, kept[-1].softmax(-1).mean(1))

    monkeypatch.setattr(model.cross_attention, "cross_attention", attend)
    fused = net.fuse_states(states.requires_grad_(), mask, [(state, 3)], need_maps=True)
    gradients = torch.autograd.grad(score(fused).sum(), kept)
    tokens, answer = torch.zeros_like(found.tokens), torch.zeros_like(found.answer)
    for looks, change in zip(fused.maps, gradients, strict=True):
        change = change.unflatten(2, (3, -1)).transpose(1, 2).flatten(0, 1)  # [rows, heads, tokens, keys]
        tokens += change.relu().mean(1) * looks.detach()
        answer += change.sum(2).relu().mean(1) * (looks.detach() * own_tokens(mask)[..., None]).sum(1)
    assert tokens.sum(-1)[mask].min() > 0
    for rows, expected in ((found.tokens, tokens.sqrt()), (found.answer, answer.sqrt())):
        torch.testing.assert_close(
            rows, expected / expected.sum(-1, keepdim=True).clamp_min(1e-30), atol=2e-5, rtol=1e-3
        )


def _odds_of_candidates(tiny_model: CompactModel, image: Any, candidates: tuple[str, ...]) -> Tensor:
    """The log odds of the best candidate, from the head's own parts."""
    net = tiny_model.net
    ids, mask = pad_ids([tokenize(tiny_model.tokenizer, TEXT).ids])
    states = net.text(ids, mask).detach().requires_grad_()
    vector = net.fuse_states(states, mask, [(image.state, 1)], need_maps=True).vector[0]
    logits = []
    for candidate in candidates:
        if candidate in tiny_model.answers:
            index = tiny_model.answers.index(candidate)
            logits.append(vector @ net.head.weight[index] + net.head.bias[index])
        else:
            own = net.text(*pad_ids([tokenize(tiny_model.tokenizer, candidate).ids]))[0].mean(0)
            logits.append(vector @ net.head.unseen(own) + net.head.bias.median())
    stacked = torch.stack(logits)
    best = int(stacked.argmax())
    return stacked[best] - torch.cat([stacked[:best], stacked[best + 1 :]]).logsumexp(0)


def test_gradient_maps_count_what_is_read_under_the_last_map(tiny_model: CompactModel) -> None:
    """With nothing left but that reading, the first token's map still follows it; the other tokens' have nothing."""
    quiet = tiny()
    with torch.no_grad():
        head = quiet.net.head
        for module in (head.fused, head.read_colours, head.read_objects, head.yes_from_objects, head.gates):
            for part in module.parameters():
                part.zero_()
    (image,) = encode(quiet, noise())
    (text,) = ask(quiet, image, TEXT, maps=MapRequest("gradient", (1,)))
    assert text.tokens[0].map is not None
    assert text.tokens[0].map.values.sum() > 0.1
    for token in text.tokens[1:]:
        assert row(token.map).tolist() == [1.0, *[0.0] * 16]
    assert ((row(text.answer_map)[1:] > 0) == (row(text.tokens[0].map)[1:] > 0)).all()


def test_gradient_maps_of_a_sure_answer_do_not_vanish() -> None:
    """Where the top answer's probability is 1 in float32."""
    sure = tiny()
    (image,) = encode(sure, noise())
    (before,) = ask(sure, image, TEXT, top_k=1, maps=MapRequest("gradient"))
    best = sure.answers.index(before.ranking[0].answer)
    with torch.no_grad():
        sure.net.head.bias[best] += 60
    (text,) = ask(sure, image, TEXT, maps=MapRequest("gradient"))
    assert text.ranking[0].score == 1.0
    np.testing.assert_allclose(row(text.answer_map), row(before.answer_map), atol=1e-4)


def test_gradient_maps_leave_no_trace(tiny_model: CompactModel) -> None:
    """No gradients kept, no hooks left, and a kernel without a gradient is set aside and set back."""
    (image,) = encode(tiny_model, noise())
    (expected,) = ask(tiny_model, image, TEXT, maps=MapRequest("gradient"))
    set_kernel(tiny_model.net, "blocked")
    try:
        (found,) = ask(tiny_model, image, TEXT, maps=MapRequest("gradient"))
        layers = [layer for layer in tiny_model.net.fusion.layers if isinstance(layer, FusionLayer)]
        assert {layer.cross.kernel for layer in layers} == {"blocked"}
    finally:
        set_kernel(tiny_model.net, "auto")
    np.testing.assert_allclose(row(found.answer_map), row(expected.answer_map), atol=1e-6)
    assert all(parameter.grad is None for parameter in tiny_model.net.parameters())
    ask(tiny_model, image, TEXT, maps=MapRequest("rollout"))
    for module in tiny_model.net.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.parametrize("layers", [(0, 1), (0,), (1,)])
def test_rollout_follows_the_question_through_its_own_attention(
    tiny_model: CompactModel, layers: tuple[int, ...]
) -> None:
    """A token's share of each key and each token of the text, step by step in plain numpy; together they are 1."""
    (image,) = encode(tiny_model, noise())
    (text,) = ask(tiny_model, image, TEXT, maps=MapRequest("rollout", layers))
    _, maps, given = forward(tiny_model.net, tiny_model.tokenizer, image, TEXT)
    tokens, keys = maps[0].shape[1:]
    flow = np.concatenate([np.eye(tokens), np.zeros((tokens, keys))], 1)
    mask = torch.ones(1, tokens, dtype=torch.bool)
    for index, layer in enumerate(tiny_model.net.fusion.layers):
        assert isinstance(layer, FusionLayer)
        own = layer.self_map(given[index], mask)[0].double().numpy()
        flow = 0.5 * flow + 0.5 * own @ flow
        if index in layers:
            flow = 0.5 * flow + 0.5 * np.concatenate([np.zeros((tokens, tokens)), maps[index][0].numpy()], 1)
    assert flow.sum(1) == pytest.approx(1)
    shares = flow[:, tokens:]
    for token, own in zip(text.tokens, shares, strict=True):
        assert token.map is not None
        np.testing.assert_allclose(token.map.values.ravel(), own[1:], atol=1e-5)
    gathering = tiny_model.net.fusion.gather.self_map(given[-1], mask)[0, 0].double().numpy()
    answer = 0.5 * (shares[0] + gathering @ shares)
    if 1 in layers:
        answer = 0.5 * (answer + maps[1][0, 0].numpy())
    assert text.answer_map is not None
    np.testing.assert_allclose(text.answer_map.values.ravel(), answer[1:], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_and_repetition_of_layers_is_of_no_account(tiny_model: CompactModel, kind: Any) -> None:
    (image,) = encode(tiny_model, noise())
    one, other = run(
        tiny_model,
        Item(image, (TEXT,), maps=MapRequest(kind, (1, 0, 1))),
        Item(image, (TEXT,), maps=MapRequest(kind)),
    )
    assert one.maps == other.maps
    np.testing.assert_allclose(row(one.texts[0].answer_map), row(other.texts[0].answer_map), atol=1e-6)


def test_the_kinds_and_the_layers_differ(tiny_model: CompactModel) -> None:
    (image,) = encode(tiny_model, noise())
    found = [
        row(ask(tiny_model, image, TEXT, maps=MapRequest(kind, layers))[0].answer_map)
        for kind in KINDS
        for layers in ((0,), (1,))
    ]
    for i, one in enumerate(found):
        for other in found[:i]:
            assert np.abs(one - other).max() > 1e-3
