"""BLIP-2 and InstructBLIP here say what transformers' own say, and their maps are composed of the attention used."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from model.interface import Generation, Item, ItemError, MapRequest
from model.published.blip.text_stack import CrossBlock
from model.published.blip2 import language
from model.published.loading import load
from tests.model.published.blip2.conftest import QUERIES, QueryPair
from tests.model.published.checkpoints import make_image
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
)


def assert_equal(ours: Any, pair: QueryPair, shape: tuple[int, int]) -> None:
    """Tokens, logits and raw maps of each layer to 1e-5."""
    image = make_image(*shape, seed=shape[0])
    [encoded] = ours.encode([ours.info.preprocess(image)])
    for question in QUESTIONS:
        made = pair.generate(image, question, max_new_tokens=6)
        theirs = pair.look(image, pair.prompt(question), made)
        prompt = ours._prompt("answer", question)
        forced = ours._forced([prompt], [encoded], torch.tensor([made]), None)
        largest = max(1.0, theirs.logits.abs().max().item())
        torch.testing.assert_close(forced.logits[0], theirs.logits, rtol=0, atol=1e-5 * largest)
        for layer in range(3):
            [text] = ask(ours, encoded, question, maps=MapRequest("raw", (layer,)), generation=SHORT).texts
            assert text.ranking[0].answer == ours.tokenizer.decode(made)
            looked = theirs.queries.mean(0)
            rows = (theirs.answer[layer] @ looked)[: len(made)]
            assert_maps(text.answer_tokens, rows)
            np.testing.assert_allclose(np.ravel(text.answer_map.values), rows.mean(0)[1:], atol=1e-5)
            assert_maps(text.tokens, theirs.prompt[layer] @ looked)


def test_attention_is_peaked(query: QueryPair) -> None:
    image = make_image(90, 50)
    made = query.generate(image, QUESTIONS[0], max_new_tokens=6)
    theirs = query.look(image, query.prompt(QUESTIONS[0]), made)
    for heads in theirs.heads:
        assert_peaked(heads[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_logits_and_maps_equal_transformers(query: QueryPair, shape: tuple[int, int]) -> None:
    assert_equal(query.ours, query, shape)


@pytest.mark.parametrize("mutant", ["columns", "row by one", "queries", "no cross-attention", "patches"])
def test_a_mutant_is_noticed(query: QueryPair, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the comparison would let pass, it would not be worth running."""
    ours = load(query.folder, id="mutant")
    ours.net.double()
    chosen = language._chosen
    if mutant == "columns":
        monkeypatch.setattr(language, "_chosen", lambda *a: chosen(*a).roll(1, 2))
    elif mutant == "row by one":
        monkeypatch.setattr(language, "_chosen", lambda *a: chosen(*a).roll(1, 1))
    elif mutant == "queries":
        ask_queries = ours._query

        def flipped(*args: Any, **kwargs: Any) -> Any:
            found = ask_queries(*args, **kwargs)
            return type(found)(found.features, None if found.maps is None else found.maps.flip(1))

        ours._query = flipped
    elif mutant == "patches":
        ours.first_patch = 0
    else:
        monkeypatch.setattr(CrossBlock, "forward", lambda self, s, *a, need_map=False: (self.norm(s), torch.zeros(1)))
    with pytest.raises((AssertionError, RuntimeError)):
        assert_equal(ours, query, SHAPES[0])


@pytest.mark.parametrize("maps", [None, MapRequest("raw", (0, 2))])
def test_a_batch_is_as_one_at_a_time(query: QueryPair, maps: MapRequest | None) -> None:
    images = query.encode(make_image(90, 50, seed=1), make_image(40, 70, seed=2))
    assert_batch_is_alone(query.ours, images, maps)


def test_a_dropped_mask_is_noticed(query: QueryPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """InstructBLIP's Q-Former reads instructions of several lengths together."""
    if not query.instructed:
        pytest.skip("its queries read no text")
    ours = load(query.folder, id="mutant")
    ours.net.double()
    images = query.encode(make_image(90, 50, seed=1), make_image(40, 70, seed=2))
    prompts = [ours._prompt("answer", text) for text in ("a dog", "zq fg")]  # of the same length to the language model
    alone = [ours._query([p], [image], need_map=True) for p, image in zip(prompts, images, strict=True)]
    both = ours._query(prompts, images, need_map=True)
    torch.testing.assert_close(both.features, torch.cat([one.features for one in alone]), rtol=0, atol=1e-5)
    torch.testing.assert_close(both.maps, torch.cat([one.maps for one in alone]), rtol=0, atol=1e-5)
    forward = ours.qformer.forward
    ours.qformer.forward = lambda *a, mask=None, **k: forward(*a, **k)
    wrong = ours._query(prompts, images, need_map=True)
    assert (wrong.features - both.features).abs().max() > 1e-3


def test_an_encoded_image_is_as_a_new_one(query: QueryPair) -> None:
    """Encoded among others and asked again and again, or anew for each question."""
    pixels = [query.ours.info.preprocess(make_image(80, 60, seed=s)) for s in range(2)]
    kept = query.ours.encode(pixels)[1]
    assert_kept_is_as_new(query.ours, kept, pixels[1])
    tensors = [kept.features, kept.maps] if hasattr(kept, "features") else [x for kv in kept.layers for x in kv]
    assert kept.nbytes == sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def test_an_answer_ends_where_transformers_ends_it(query: QueryPair) -> None:
    image = make_image(90, 50, seed=4)
    [encoded] = query.encode(image)
    whole = query.generate(image, QUESTIONS[0], max_new_tokens=8)
    end = whole[2]
    ours = load(query.folder, id="ends")
    ours.net.double()
    ours.ends = (end,)
    [text] = ask(ours, encoded, QUESTIONS[0], generation=Generation(max_new_tokens=8)).texts
    expected = query.generate(image, QUESTIONS[0], max_new_tokens=8, eos_token_id=end)
    assert text.ranking[0].answer == ours.tokenizer.decode(expected[: expected.index(end)])
    assert text.answer_token_count == expected.index(end)


def test_candidates_are_ranked_by_what_the_model_gives_them(query: QueryPair) -> None:
    image, candidates = make_image(90, 50), ("cat", "a red dog", "two")
    logs = []
    for candidate in candidates:
        ids = query.ours.answer_ids(candidate)
        found = query.look(image, query.prompt(QUESTIONS[0]), ids).logits.log_softmax(-1)
        logs.append(sum(found[i, token] for i, token in enumerate([*ids, query.ours.ends[0]])))
    expected = torch.stack(logs).softmax(0).tolist()
    [text] = ask(query.ours, query.encode(image)[0], QUESTIONS[0], candidates=candidates, maps=MapRequest()).texts
    scores = {one.answer: one.score for one in text.ranking}
    assert scores == pytest.approx(dict(zip(candidates, expected, strict=True)), abs=1e-5)
    assert text.score_over == "candidates"
    assert query.ours.tokenizer.decode(query.ours.answer_ids("a red dog")) == "a red dog"


def test_maps_say_how_they_are_composed_and_where_words_stand(query: QueryPair) -> None:
    [encoded] = query.encode(make_image(90, 50))
    output = ask(query.ours, encoded, QUESTIONS[0], maps=MapRequest(layers=(1,)), generation=SHORT)
    assert output.maps is not None
    assert output.maps.composition == "answer>queries>image"
    assert [step.layers for step in output.maps.steps] == [(1,), (0, 2)]
    [text] = output.texts
    assert_spans(QUESTIONS[0], text.tokens)
    assert [word.text for word in text.words] == ["what", "is", "the", "color", "of", "the", "cat"]
    for token in (*text.tokens, *text.answer_tokens):
        assert token.map is not None
        assert token.map.values.sum() + token.map.elsewhere == pytest.approx(1.0, abs=1e-5)
    assert query.ours.net.config.num_query_tokens == QUERIES


@pytest.mark.parametrize("prompt", ["", "a photo of the"])
def test_captions(query: QueryPair, prompt: str) -> None:
    """BLIP-2's begin with the text that was sent; InstructBLIP reads it as an instruction."""
    image = make_image(90, 50, seed=3)
    options = {"task": "caption", "maps": MapRequest(), "generation": SHORT}
    [text] = ask(query.ours, query.encode(image)[0], prompt, **options).texts
    asked = prompt or ("A short image description:" if query.instructed else "")
    inputs = query.inputs(image, asked)
    found = query.theirs.generate(**inputs, do_sample=False, max_new_tokens=6)[0].tolist()
    start = 1 if query.theirs.config.text_config.is_encoder_decoder else inputs["input_ids"].shape[1]
    written = query.ours.tokenizer.decode(found[start:])
    caption = text.ranking[0].answer
    assert caption == (written if query.instructed or not prompt else f"{prompt} {written}".rstrip())
    for word in text.answer_words:
        assert caption[slice(*word.span)] == word.text


def test_what_is_too_long_is_said(query: QueryPair) -> None:
    [encoded] = query.encode(make_image(30, 30))
    for text in ("dog " * 300, "zq, " * 20):
        [found] = query.ours.run("answer", [Item(encoded, (text,))])
        if text[0] == "d" or query.instructed:
            assert isinstance(found, ItemError)
            assert found.code == "question_too_long"


def test_what_the_folder_says_of_writing_holds(query: QueryPair) -> None:
    image = make_image(64, 64)
    assert_defaults_are_followed(query.ours, query.encode(image)[0], partial(query.generate, image, QUESTIONS[0]))
