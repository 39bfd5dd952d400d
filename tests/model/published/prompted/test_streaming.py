"""Families with a language model write token by token: items come and go, and each says what it says alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model.interface import Generation, Item, ItemError, MapRequest, Written
from model.published.loading import load
from tests.model.published.checkpoints import make_image
from tests.model.published.test_served_families import SAVERS
from tests.model.published.writers import QUESTIONS, assert_same

WRITERS = [name for name in SAVERS if name != "vilt"]


@pytest.fixture(scope="module", params=WRITERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny model of each family."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    return load(SAVERS[request.param](folder), id=request.param)


def test_items_come_and_go_between_two_tokens(model: Any) -> None:
    """What was shown is the answer in the end, and the output is that of `run`."""
    images = [model.encode([model.info.preprocess(make_image(90, 50, seed=seed))])[0] for seed in range(2)]
    items = [
        Item(images[0], QUESTIONS, maps=MapRequest(), generation=Generation(max_new_tokens=7)),
        Item(images[1], QUESTIONS[:1], generation=Generation(max_new_tokens=4, temperature=1.0, seed=2)),
        Item(images[0], QUESTIONS[1:2], candidates=("cat", "dog")),
    ]
    expected = model.run("answer", items)
    assert model.info.streams
    writing = model.writing()
    shown: dict[tuple[int, int], str] = {}
    ready: dict[int, Any] = {}
    steps = 0
    joins = {0: [(0, items[0])], 2: [(1, items[1]), (9, items[0])], 3: [(2, items[2])]}
    while len(ready) < 3:
        found = writing.advance(
            [(key, "answer", item) for key, item in joins.get(steps, [])], (9,) if steps == 4 else ()
        )
        assert 9 not in found or steps in (2, 3)
        for key, one in found.items():
            assert isinstance(one, Written)
            for step in one.progress:
                shown[key, step.index] = shown.get((key, step.index), "") + step.text
            if one.output is not None:
                ready[key] = one.output
        steps += 1
        assert steps < 20
    assert not writing.advance([], ())
    for key, output in enumerate(expected):
        for index, (text, own) in enumerate(zip(ready[key].texts, output.texts, strict=True)):
            assert_same(text, own)
            if items[key].candidates is None:
                assert shown.get((key, index), "") == own.ranking[0].answer
                assert len(own.choices) == own.answer_token_count


def test_one_that_cannot_be_run_hurts_no_other(model: Any) -> None:
    [image] = model.encode([model.info.preprocess(make_image(60, 40))])
    fine = Item(image, ("a dog",), generation=Generation(max_new_tokens=2))
    writing = model.writing()
    found = writing.advance(
        [(0, "answer", Item(image, (" ",))), (1, "answer", fine), (2, "answer", Item(None, ("cat",)))], ()
    )  # type: ignore[arg-type]
    assert isinstance(found[0], ItemError)
    assert isinstance(found[1], Written)
    assert isinstance(found[2], Exception)
    found = writing.advance([], ())
    assert list(found) == [1]
    assert found[1].output is not None
