"""Items join and leave between two tokens, and each says what it says alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from model.interface import Generation, Item, ItemError, MapRequest, Written
from model.published.causal.stack import TextStack
from tests.model.published.causal.pairs import QUESTION, SHAPES, CausalPair
from tests.model.published.checkpoints import make_image

OTHER = "where is the dog and how many are there?"
THIRD = "is it?"


def finish(writing: Any, found: dict[int, Any], shown: dict[int, str], ready: dict[int, Any]) -> None:
    """Note what a step told."""
    for number, one in found.items():
        if not isinstance(one, Written):
            ready[number] = one
            continue
        for step in one.progress:
            shown[number] = shown.get(number, "") + step.text
        if one.output is not None:
            ready[number] = one.output


def test_who_joins_late_or_leaves_early_changes_nothing(pair: CausalPair) -> None:
    """Three questions about two images come one after the other; a fourth comes and goes."""
    one, two = pair.encode(make_image(*SHAPES[0]), make_image(*SHAPES[1], seed=1))
    asked = [(one, QUESTION, 9), (two, OTHER, 5), (one, THIRD, 7), (two, QUESTION, 12)]
    items = [
        Item(image, (text,), maps=MapRequest(), generation=Generation(max_new_tokens=tokens))
        for image, text, tokens in asked
    ]
    alone = [output.texts[0] for output in pair.ours.run("answer", items[:3])]
    writing = pair.ours.writing()
    shown: dict[int, str] = {}
    ready: dict[int, Any] = {}
    finish(writing, writing.advance([(0, "answer", items[0])], ()), shown, ready)
    finish(writing, writing.advance([(1, "answer", items[1]), (3, "answer", items[3])], ()), shown, ready)
    finish(writing, writing.advance([], ()), shown, ready)
    finish(writing, writing.advance([(2, "answer", items[2])], (3,)), shown, ready)
    for _ in range(12):
        finish(writing, writing.advance([], ()), shown, ready)
    assert sorted(ready) == [0, 1, 2]
    for number, expected in enumerate(alone):
        found = ready[number].texts[0]
        assert shown[number] == found.ranking[0].answer == expected.ranking[0].answer
        for a, b in zip(found.answer_tokens, expected.answer_tokens, strict=True):
            np.testing.assert_allclose(a.map.values, b.map.values, atol=1e-6)
    assert not writing._batch.rows
    assert not writing.advance([], ())


def test_an_item_that_cannot_be_run_hurts_no_other(llava: CausalPair) -> None:
    (image,) = llava.encode(make_image(*SHAPES[0]))
    good = Item(image, (QUESTION,), generation=Generation(max_new_tokens=2))
    writing = llava.ours.writing()
    found = writing.advance([(0, "answer", Item(image, (" ",))), (1, "answer", good)], ())
    assert isinstance(found[0], ItemError)
    assert isinstance(found[1], Written)
    found = writing.advance([], ())
    assert found[1].output is not None


def test_where_the_model_fails_all_that_is_under_way_is_told(
    llava: CausalPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image,) = llava.encode(make_image(*SHAPES[0]))
    item = Item(image, (QUESTION,), generation=Generation(max_new_tokens=4))
    writing = llava.ours.writing()
    writing.advance([(0, "answer", item), (1, "answer", item)], ())
    with monkeypatch.context() as patched:

        def fails(*_: Any) -> torch.Tensor:
            raise MemoryError("none left")

        patched.setattr(TextStack, "__call__", fails)
        found = writing.advance([], ())
    assert isinstance(found[0], MemoryError)
    assert isinstance(found[1], MemoryError)
    found = writing.advance([(2, "answer", item)], ())
    assert sorted(found) == [2]
    assert isinstance(found[2], Written)


def test_rows_of_one_image_share_its_prefix(llava: CausalPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys and values are attended in one piece, whoever joined when."""
    from model.published.causal import stack

    one, two = llava.encode(make_image(*SHAPES[0]), make_image(*SHAPES[1]))
    item = {image: Item(image, (QUESTION,), generation=Generation(max_new_tokens=6)) for image in (one, two)}
    writing = llava.ours.writing()
    writing.advance([(0, "answer", item[one]), (1, "answer", item[two])], ())
    writing.advance([(2, "answer", item[one])], ())
    seen: list[list[int]] = []
    right = stack.sources_of

    def sources(rows: Any) -> Any:
        found = right(rows)
        seen.append([source.rows for source in found])
        return found

    monkeypatch.setattr(stack, "sources_of", sources)
    writing.advance([], ())
    assert seen == [[2, 1]]
