"""BLIP through our cross-attention says what transformers' own says, and its maps are the attention it used."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from model.cross_attention import CrossAttention
from model.interface import Generation, Item, ItemError, MapRequest, Output
from model.published import map_passes
from model.published.blip import answer as blip_answer
from model.published.blip.base import NO_FAULTS, Faults
from model.published.blip.text_stack import CrossBlock
from model.rows import Source
from tests.model.published.checkpoints import make_image
from tests.model.published.conftest import Pair

QUESTIONS = ("what is the color of the cat?", "a dog", "how many are there in this photo, two or 3?")
SHAPES = ((90, 50), (50, 90), (64, 64), (300, 31))


def run(pair: Pair, image: Any, texts: tuple[str, ...], maps: MapRequest | None = None, **options: Any) -> Output:
    """One item through ours."""
    output = pair.ours.run(pair.ours.task, [Item(image, texts, maps=maps, **options)])[0]
    assert isinstance(output, Output), output
    return output


def their_attention(net: Any, ids: Any, mask: Any, states: Any, **options: Any) -> tuple[Any, list[Any]]:
    """transformers' last state, and its cross-attention ``[rows, heads, tokens, keys]`` of each layer."""
    result = net(input_ids=ids, attention_mask=mask, encoder_hidden_states=states, output_attentions=True, **options)
    return result.last_hidden_state, list(result.cross_attentions)


@torch.no_grad()
def assert_questions_equal(ours: Any, pair: Pair, image: Any) -> None:
    """States and raw maps of the questions, one by one, to 1e-5."""
    features = pair.theirs.vision_model(pair.pixels(image)).last_hidden_state
    encoded = ours.encode([ours.info.preprocess(image)])[0]
    for text in QUESTIONS:
        ids, mask = pair.ids(text, enc=not ours.faults.keep_cls)
        states, attention = their_attention(pair.theirs.text_encoder, ids, mask, features)
        fed, _ = ours.question_ids([ours.tokenizer(text)])
        result = ours.stack(ours.stack.embed(fed), [Source(encoded.layers)], need_maps=True)
        torch.testing.assert_close(result.states, states, rtol=0, atol=1e-5)
        for found, expected in zip(result.maps, attention, strict=True):
            torch.testing.assert_close(found, expected.mean(1), rtol=0, atol=1e-5)
        output = ours.run(ours.task, [Item(encoded, (text,), maps=MapRequest())])[0]
        expected_maps = torch.stack(attention).mean((0, 2))[0]  # [tokens, keys]
        side = ours.info.columns
        for token, row in zip(output.texts[0].tokens, expected_maps, strict=True):
            assert token.map.elsewhere == pytest.approx(row[0].item(), abs=1e-5)
            np.testing.assert_allclose(token.map.values, row[1:].reshape(-1, side).numpy(), atol=1e-5)


@torch.no_grad()
def test_attention_is_peaked(answer: Pair) -> None:
    """On flat attention a wrong map would pass."""
    ids, mask = answer.ids(QUESTIONS[0])
    features = answer.theirs.vision_model(answer.pixels(make_image(90, 50))).last_hidden_state
    _, attention = their_attention(answer.theirs.text_encoder, ids, mask, features)
    rows = torch.stack(attention)
    entropy = -(rows * rows.clamp_min(1e-30).log()).sum(-1).mean()
    assert entropy < 0.5 * math.log(rows.shape[-1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["answer", "match"])
def test_questions_equal_transformers(name: str, shape: tuple[int, int], request: pytest.FixtureRequest) -> None:
    pair = request.getfixturevalue(name)
    assert_questions_equal(pair.ours, pair, make_image(*shape))


def test_questions_equal_transformers_with_its_first_token(answer: Pair) -> None:
    assert_questions_equal(answer.reload(Faults(keep_cls=True)), answer, make_image(90, 50))


@pytest.mark.parametrize("mutant", ["heads", "transposed", "no cross-attention", "no residual", "patches shifted"])
def test_a_mutant_is_noticed(answer: Pair, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `assert_questions_equal` would let pass, it would not be worth running."""
    ours = answer.reload(NO_FAULTS)
    assert_questions_equal(ours, answer, make_image(90, 50))
    if mutant == "heads":
        for layer in ours.stack.cross_layers:
            with torch.no_grad():
                layer.wq.weight.copy_(layer.wq.weight.roll(layer.head_dim, 0))
    elif mutant == "transposed":
        to_maps = map_passes.to_maps

        def transposed(*args: Any, **kwargs: Any) -> Any:
            return [type(m)(m.values.T, m.elsewhere) for m in to_maps(*args, **kwargs)]

        monkeypatch.setattr(blip_answer, "to_maps", transposed)
    elif mutant == "no cross-attention":
        monkeypatch.setattr(CrossBlock, "forward", lambda self, states, *_, **__: (self.norm(states), None))
    elif mutant == "no residual":
        forward = CrossBlock.forward
        monkeypatch.setattr(CrossBlock, "forward", lambda self, s, *a, **k: forward(self, 0.9 * s, *a, **k))
    else:
        monkeypatch.setattr(blip_answer, "FIRST_PATCH", 0)
    with pytest.raises((AssertionError, ValueError, IndexError)):
        assert_questions_equal(ours, answer, make_image(90, 50))


def test_no_cross_attention_of_the_library_is_left(answer: Pair, caption: Pair, match: Pair) -> None:
    for pair in (answer, caption, match):
        blocks = [module for name, module in pair.ours.net.named_modules() if name.endswith("crossattention")]
        assert blocks
        assert all(type(block.attention) is CrossAttention for block in blocks)


@pytest.mark.parametrize("shape", SHAPES)
def test_answers_are_those_of_transformers(answer: Pair, shape: tuple[int, int]) -> None:
    """Token by token, with three beams, given the right first token."""
    image = make_image(*shape, seed=3)
    texts = run(answer, answer.encode(image)[0], QUESTIONS).texts
    for question, text in zip(QUESTIONS, texts, strict=True):
        ids, mask = answer.ids(question)
        expected = answer.theirs.generate(ids, answer.pixels(image), mask, num_beams=3, max_new_tokens=10)
        assert text.ranking[0].answer == answer.ours.tokenizer.decode(expected[0])


@pytest.mark.parametrize("end", [0.0, 1.0, 3.0, 6.0])
def test_beams_are_those_of_transformers(end: float, tmp_path: Any) -> None:
    """All three, in order, whether they end early, late or at the limit, in a batch whose rows end at other times."""
    from tests.model.published.conftest import make_pair

    pair = make_pair(tmp_path, "answer", end=end, seed=int(end))
    images = [make_image(80, 60, seed=s) for s in range(6)]
    items = [Item(image, ("what is it?",)) for image in pair.encode(*images)]
    ids, mask = pair.ids("what is it?")
    for output, image in zip(pair.ours.run("answer", items), images, strict=True):
        options = {"num_beams": 3, "max_new_tokens": 10, "num_return_sequences": 3}
        expected = pair.theirs.generate(ids, pair.pixels(image), mask, **options)
        decoded = list(dict.fromkeys(pair.ours.tokenizer.decode(row) for row in expected))
        assert [ranked.answer for ranked in output.texts[0].ranking] == decoded


def outputs_agree(one: Any, other: Any) -> None:
    """The same words, scores to 1e-5 and maps to 1e-5."""
    assert [r.answer for r in one.ranking] == [r.answer for r in other.ranking]
    assert [r.score for r in one.ranking] == pytest.approx([r.score for r in other.ranking], rel=1e-4, abs=1e-9)
    for a, b in zip((*one.tokens, *one.answer_tokens), (*other.tokens, *other.answer_tokens), strict=True):
        assert (a.text, a.span) == (b.text, b.span)
        np.testing.assert_allclose(a.map.values, b.map.values, atol=2e-5, rtol=1e-3)
    if one.answer_map is not None:
        np.testing.assert_allclose(one.answer_map.values, other.answer_map.values, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", [None, "raw", "rollout", "gradient"])
@pytest.mark.parametrize("name", ["answer", "caption", "match"])
def test_a_batch_is_as_one_at_a_time(name: str, kind: Any, request: pytest.FixtureRequest) -> None:
    """Texts of several lengths, two images, with and without maps in one call."""
    pair = request.getfixturevalue(name)
    images = pair.encode(make_image(90, 50, seed=1), make_image(40, 70, seed=2))
    maps = None if kind is None else MapRequest(kind, (0, 2))
    items = [
        Item(images[0], QUESTIONS, maps=maps),
        Item(images[1], QUESTIONS[1:], maps=maps),
        Item(images[0], ("what is it",)),
    ]
    batch = pair.ours.run(name, items)
    for item, output in zip(items, batch, strict=True):
        for text, found in zip(item.texts, output.texts, strict=True):
            alone = run(pair, item.image, (text,), item.maps).texts[0]
            if name == "match":  # scores are over the texts of a request
                assert alone.fit == pytest.approx(found.fit, abs=1e-5)
                found = replace(found, ranking=alone.ranking)
            outputs_agree(found, alone)


def test_a_dropped_mask_changes_answers_and_is_what_transformers_does(answer: Pair) -> None:
    """Padding changes the library's states of a batch; the switch brings that back, and without it we are right."""
    image = make_image(90, 50)
    ids, mask = answer.ids(*QUESTIONS)
    pixels = answer.pixels(image).expand(len(QUESTIONS), -1, -1, -1)
    theirs = answer.theirs.generate(ids, pixels, mask, num_beams=3, max_new_tokens=10)
    expected = [answer.ours.tokenizer.decode(row) for row in theirs]
    faulty = answer.reload(Faults(drop_mask=True))
    encoded = faulty.encode([faulty.info.preprocess(image)])[0]
    found = faulty.run("answer", [Item(encoded, QUESTIONS)])[0].texts
    assert [text.ranking[0].answer for text in found] == expected
    right = run(answer, answer.encode(image)[0], QUESTIONS).texts
    shares = [text.ranking[0].score for text in right]
    assert [text.ranking[0].score for text in found] != pytest.approx(shares, rel=1e-3)


@torch.no_grad()
def test_candidates_are_ranked_by_what_the_decoder_gives_them(answer: Pair) -> None:
    """The library's loss of an answer is minus its log-probability."""
    candidates = ("cat", "a red dog", "two", "blue man in a photo")
    image = make_image(90, 50)
    ids, mask = answer.ids(QUESTIONS[0])
    features = answer.theirs.vision_model(answer.pixels(image)).last_hidden_state
    states, _ = their_attention(answer.theirs.text_encoder, ids, mask, features)
    logs = []
    for candidate in candidates:
        labels, _ = answer.ids(candidate, enc=False)
        labels[:, 0] = answer.theirs.config.text_config.bos_token_id
        result = answer.theirs.text_decoder(
            input_ids=labels, encoder_hidden_states=states, labels=labels, reduction="none"
        )
        logs.append(-result.loss)
    expected = torch.cat(logs).softmax(0)
    text = run(answer, answer.encode(image)[0], QUESTIONS[:1], candidates=candidates, top_k=3).texts[0]
    order = expected.argsort(descending=True).tolist()
    assert [r.answer for r in text.ranking] == [candidates[i] for i in order[:3]]
    assert [r.score for r in text.ranking] == pytest.approx([expected[i].item() for i in order[:3]], abs=1e-5)
    assert text.rest == pytest.approx(expected[order[3]].item(), abs=1e-5)
    assert text.score_over == "candidates"


@torch.no_grad()
def test_answer_maps_are_composed(answer: Pair) -> None:
    """Decoder to question times question to image, from the library's own attentions; every map sums to 1."""
    image = make_image(90, 50)
    text = run(answer, answer.encode(image)[0], QUESTIONS[:1], MapRequest()).texts[0]
    ids, mask = answer.ids(QUESTIONS[0])
    features = answer.theirs.vision_model(answer.pixels(image)).last_hidden_state
    states, looked = their_attention(answer.theirs.text_encoder, ids, mask, features)
    expected = answer.theirs.generate(ids, answer.pixels(image), mask, num_beams=3, max_new_tokens=10)
    fed = expected[:, :-1] if expected[0, -1] == answer.theirs.config.text_config.sep_token_id else expected
    _, taken = their_attention(answer.theirs.text_decoder.bert, fed, None, states, is_decoder=True)
    composed = (torch.stack(taken).mean((0, 2)) @ torch.stack(looked).mean((0, 2)))[0]
    assert len(text.answer_tokens) == len(composed) - 1
    for token, row in zip(text.answer_tokens, composed[1:], strict=True):
        assert token.map is not None
        np.testing.assert_allclose(token.map.values.ravel(), row[1:].numpy(), atol=1e-5)
        assert token.map.values.sum() + token.map.elsewhere == pytest.approx(1.0, abs=1e-5)
    assert text.answer_map is not None
    np.testing.assert_allclose(text.answer_map.values.ravel(), composed[:, 1:].mean(0).numpy(), atol=1e-5)


@pytest.mark.parametrize("prompt", ["", "a photo of", "There is the Red dog, in"])
def test_captions_are_those_of_transformers(caption: Pair, prompt: str) -> None:
    """Token by token; the caption begins with the prompt as it was sent, and spans are right in it."""
    images = [make_image(90, 50, seed=s) for s in range(3)]
    items = [Item(image, (prompt,), maps=MapRequest()) for image in caption.encode(*images)]
    for output, image in zip(caption.ours.run("caption", items), images, strict=True):
        options = {"num_beams": 3, "max_new_tokens": 20}
        ids = caption.ids(prompt)[0] if prompt else None
        expected = caption.theirs.generate(caption.pixels(image), ids, **options)
        text = output.texts[0]
        found = text.ranking[0].answer
        assert found.startswith(prompt)
        assert found.lower() == caption.ours.tokenizer.decode(expected[0])
        for token in text.answer_tokens:
            if token.span is not None:
                assert found[slice(*token.span)].lower() == token.text.removeprefix("##")
        for word in text.answer_words:
            assert found[slice(*word.span)] == word.text


@torch.no_grad()
def test_caption_maps_are_the_words_own_attention(caption: Pair) -> None:
    image = make_image(90, 50, seed=4)
    text = run(caption, caption.encode(image)[0], ("a photo",), MapRequest(layers=(1,))).texts[0]
    ids = [caption.theirs.config.text_config.bos_token_id]
    ids += [caption.ours.tokenizer.hub.convert_tokens_to_ids(token.text) for token in text.answer_tokens]
    features = caption.theirs.vision_model(caption.pixels(image)).last_hidden_state
    fed = torch.tensor([ids])
    _, attention = their_attention(caption.theirs.text_decoder.bert, fed, None, features, is_decoder=True)
    for token, row in zip(text.answer_tokens, attention[1].mean(1)[0, 1:], strict=True):
        assert token.map is not None
        np.testing.assert_allclose(token.map.values.ravel(), row[1:].numpy(), atol=1e-5)
        assert token.map.elsewhere == pytest.approx(row[0].item(), abs=1e-5)


def test_the_score_of_a_caption_is_its_probability(caption: Pair) -> None:
    image = make_image(90, 50, seed=5)
    text = run(caption, caption.encode(image)[0], ("",)).texts[0]
    options = {"num_beams": 3, "max_new_tokens": 20, "return_dict_in_generate": True, "output_scores": True}
    expected = caption.theirs.generate(caption.pixels(image), **options)
    length = expected.sequences.shape[1] - 1
    assert math.log(text.ranking[0].score) == pytest.approx(expected.sequences_scores[0].item() * length, rel=1e-4)


@pytest.mark.parametrize("name", ["answer", "caption"])
def test_generation_is_as_each_item_asks(name: str, request: pytest.FixtureRequest) -> None:
    """Lengths, stop strings and drawn words in one batch, as alone; the rest is searched with beams as ever."""
    pair = request.getfixturevalue(name)
    assert set(pair.ours.info.generation) == {"max_new_tokens", "temperature", "top_p", "seed", "stop"}
    images = pair.encode(make_image(90, 50, seed=1), make_image(40, 70, seed=2))
    texts = ("",) if name == "caption" else QUESTIONS[:1]

    def said(generation: Generation | None) -> str:
        text = run(pair, images[0], texts, generation=generation).texts[0]
        return str(text.ranking[0].answer)

    stop = said(None).strip()[-1]
    drawn = Generation(temperature=2.0, seed=3, max_new_tokens=6)
    options = [None, Generation(max_new_tokens=2), drawn, Generation(stop=(stop, "%%")), replace(drawn, top_p=1e-6)]
    items = [Item(images[i % 2], texts, maps=MapRequest(), generation=one) for i, one in enumerate(options)]
    outputs = pair.ours.run(name, items)
    for item, output in zip(items, outputs, strict=True):
        [alone] = run(pair, item.image, texts, item.maps, generation=item.generation).texts
        outputs_agree(output.texts[0], alone)
    assert outputs[1].texts[0].answer_token_count <= 2
    assert stop not in said(options[3])
    assert said(drawn) == said(drawn)
    assert len({said(replace(drawn, seed=seed)) for seed in range(6)}) > 1
    assert len({said(replace(drawn, seed=seed, top_p=1e-6)) for seed in range(3)}) == 1


@torch.no_grad()
def test_matching_equals_transformers(match: Pair) -> None:
    """Each text's own probability, and the shares among the request's texts."""
    image = make_image(90, 50)
    texts = run(match, match.encode(image)[0], QUESTIONS).texts
    logits = []
    for text in QUESTIONS:
        ids, mask = match.ids(text)
        logits.append(match.theirs(ids, match.pixels(image), attention_mask=mask).itm_score)
    scores = torch.cat(logits)
    assert [t.fit for t in texts] == pytest.approx(scores.softmax(1)[:, 1].tolist(), abs=1e-5)
    shares = (scores[:, 1] - scores[:, 0]).softmax(0).tolist()
    assert [t.ranking[0].score for t in texts] == pytest.approx(shares, abs=1e-5)


def test_what_cannot_be_run_is_said_of_the_item_alone(answer: Pair) -> None:
    image = answer.encode(make_image(30, 30))[0]
    items = [
        Item(image, ("what is it?",)),
        Item(image, ("cat", "dog " * 60)),
        Item(image, ("cat", " ")),
        Item(image, ("你好 你好",)),
        Item(image, ("cat",), maps=MapRequest("similarity")),
        Item(image, ("cat",), maps=MapRequest(layers=(7,))),
    ]
    fine, *errors = answer.ours.run("answer", items)
    assert isinstance(fine, Output)
    assert all(isinstance(error, ItemError) for error in errors)
    assert [(error.code, error.index) for error in errors] == [
        ("question_too_long", 1),
        ("question_empty", 1),
        ("question_not_understood", 0),
        ("map_not_supported", None),
        ("map_not_supported", None),
    ]
    refused = answer.ours.run("caption", items[:1])[0]
    assert (refused.code, "answer" in refused.message) == ("task_not_supported", True)


def test_an_encoded_image_owns_its_memory(answer: Pair) -> None:
    """An image that is kept does not keep those that were encoded with it."""
    pixels = [answer.ours.info.preprocess(make_image(30, 30, seed=s)) for s in range(3)]
    image = answer.ours.encode(pixels)[1]
    held = sum(tensor.untyped_storage().nbytes() for layer in image.layers for tensor in layer)
    assert image.nbytes == held
