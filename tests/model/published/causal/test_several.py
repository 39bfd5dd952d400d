"""Several images in one question: tokens, answers and maps are transformers' own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.interface import Generation, Item, MapRequest
from model.published.causal import maps
from model.published.causal.vision import Placement, tensors_of
from tests.model.published.causal.pairs import QUESTION, SHAPES, CausalPair, Theirs
from tests.model.published.causal.test_families import assert_same, image_columns
from tests.model.published.checkpoints import make_image

Grid = NDArray[np.float32]


def some(count: int) -> list[Image.Image]:
    """Images of different shapes."""
    return [make_image(*SHAPES[i], seed=i) for i in range(count)]


def expected(pair: CausalPair, images: list[Image.Image], row: Grid) -> list[Grid]:
    """Attention over the tokens of all images, as the grid of each."""
    found = []
    for image in images:
        if pair.folder.name == "llava_onevision":  # one among several has no tiles
            count, grid = 17, row[:16].reshape(4, 4)
        else:
            count = int((pair.prompt(image, QUESTION)["input_ids"] == pair.ours.prompt.image_id).sum())
            grid = pair.place(row[:count], image)
        found.append(grid)
        row = row[count:]
    assert not len(row)
    return found


def check(pair: CausalPair, images: list[Image.Image], text: Any, theirs: Theirs) -> None:
    """The maps of all tokens, over each of the images."""
    columns = image_columns(pair, theirs)
    first = len(theirs.ids) - len(text.tokens)
    rows = [first + i for i in range(len(text.tokens))]
    rows += [len(theirs.ids) - 1 + i for i in range(len(text.answer_tokens))]
    for token, place in zip((*text.tokens, *text.answer_tokens), rows, strict=True):
        grids = [token.map.values, *token.map.others]
        for found, wanted in zip(grids, expected(pair, images, theirs.attention[place, columns]), strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5)
        assert sum(grid.sum() for grid in grids) + token.map.elsewhere == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("count", [2, 3])
def test_answers_and_maps_are_transformers_own(pair: CausalPair, count: int) -> None:
    images = some(count)
    theirs = pair.reference(images, QUESTION)
    encoded = pair.together(*images)
    text: Any = pair.ask(encoded, QUESTION)
    assert [*encoded.ids, *pair.ours.tokenize(QUESTION).ids] == theirs.ids
    chosen = theirs.logits.log_softmax(-1).max(-1).values.tolist()
    assert text.answer_token_count == len(theirs.answer)
    assert [one.log_probability for one in text.choices] == pytest.approx(chosen, abs=1e-5)
    check(pair, images, text, theirs)
    shapes = [(grid.rows, grid.columns) for grid in (encoded.geometry, *encoded.geometry.others)]
    assert [text.answer_map.values.shape, *(one.shape for one in text.answer_map.others)] == shapes


def test_kept_again_lighter_or_in_a_batch_it_says_the_same(pair: CausalPair, monkeypatch: pytest.MonkeyPatch) -> None:
    images = some(2)
    kept = pair.together(*images)
    alone = [pair.ask(kept, text) for text in (QUESTION, "is it?")]
    other, single = pair.together(*images[::-1]), pair.encode(images[0])[0]
    options: dict[str, Any] = {"maps": MapRequest(), "generation": Generation(max_new_tokens=6)}
    items = [Item(kept, (QUESTION, "is it?"), **options), Item(other, (QUESTION,), **options)]
    items.append(Item(single, (QUESTION,), **options))
    together = pair.ours.run("answer", items)
    for one, found in zip(alone, together[0].texts, strict=True):
        assert_same(one, found)
    assert_same(pair.ask(single, QUESTION), together[2].texts[0])
    monkeypatch.setattr(pair.ours, "image_bytes", 1)
    light = pair.together(*images)
    assert light.nbytes <= kept.nbytes
    if light.prefix is None:
        assert light.nbytes == sum(tensor.nbytes for tensor in tensors_of(light.features))
    assert_same(pair.ask(light, QUESTION), alone[0])


@pytest.mark.parametrize("mutant", ["images swapped", "cells numbered anew", "tokens numbered anew"])
def test_what_would_be_wrong_shows(pair: CausalPair, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = some(2)
    theirs = pair.reference(images, QUESTION)
    right = Placement.joined
    if mutant == "cells numbered anew":
        monkeypatch.setattr(Placement, "joined", lambda parts: right([(p, count, 0) for p, count, _ in parts]))
    elif mutant == "tokens numbered anew":
        monkeypatch.setattr(Placement, "joined", lambda parts: right([(p, 0, size) for p, _, size in parts]))
    encoded = pair.together(*(images[::-1] if mutant == "images swapped" else images))
    text = pair.ask(encoded, QUESTION)
    with pytest.raises(AssertionError):
        check(pair, images, text, theirs)


def test_a_template_without_a_place_for_several_takes_one(llava: CausalPair) -> None:
    prompt = llava.ours.prompt
    assert llava.ours.info.images > 1
    assert prompt.takes_several
    alone = type(prompt)(
        llava.folder, prompt.tokenizer, placeholder="<image>", image_token="<image>", after="", template=None
    )
    alone._template = "<image>{{ messages[0]['content'][-1]['text'] }}"
    assert not alone.takes_several


def test_captions_are_the_answer_to_an_instruction(pair: CausalPair) -> None:
    """Every word of a caption has its region."""
    image = make_image(*SHAPES[0])
    (encoded,) = pair.encode(image)
    theirs = pair.reference(image, pair.ours.images.describe)
    item = Item(encoded, ("",), maps=MapRequest(), generation=Generation(max_new_tokens=6))
    (output,) = pair.ours.run("caption", [item])
    (text,) = output.texts
    asked: Any = pair.ask(encoded, pair.ours.images.describe)
    assert text.ranking == asked.ranking
    assert all(token.special for token in text.tokens)
    assert not text.words
    columns = image_columns(pair, theirs)
    assert len(text.answer_tokens) == len(theirs.answer)
    for index, token in enumerate(text.answer_tokens):
        row = theirs.attention[len(theirs.ids) - 1 + index, columns]
        np.testing.assert_allclose(token.map.values, pair.place(row, image), atol=1e-5)
    assert text.answer_words == asked.answer_words


def test_the_share_of_sinks_is_what_lies_on_tokens_that_get_much_before_anything_is_asked(llava: CausalPair) -> None:
    rows = np.full((4, 40), 0.01, np.float32)
    rows[:, 3] = (0.9, 0.2, 0.3, 0.5)
    tokens = llava.ours.tokenize("cat")
    first = next(i for i, span in enumerate(tokens.spans) if span is not None)
    assert first  # what stands between image and question
    answer = np.full(40, 0.01, np.float32)
    answer[3] = 0.61
    assert maps.sink_share(rows, tokens, answer) == pytest.approx(0.61)
    flat = np.full((4, 40), 0.02, np.float32)
    assert maps.sink_share(flat, tokens, answer) == 0.0
    assert maps.sink_share(rows, tokens._replace(spans=[(0, 1)] * len(tokens.spans)), answer) is None
    (image,) = llava.encode(make_image(*SHAPES[0]))
    found: Any = llava.ask(image, QUESTION)
    assert 0.0 <= found.sink_share <= 1.0
