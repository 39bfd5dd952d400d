"""What all families do alike: checks, defaults, and which items share a pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from model.cross_attention import CrossAttention
from model.family import Family, TokenizedText
from model.interface import EncodedImage, Item, ItemError, MapRequest, ModelInfo, Output, Pixels, Ranked, TextOutput

INFO = ModelInfo(
    id="words",
    revision="1",
    tasks=("answer", "caption"),
    map_kinds=("raw", "gradient"),
    default_map_kind="gradient",
    layers=(0, 1, 2),
    rows=1,
    columns=1,
    max_tokens=4,
    preprocess=lambda image: image,  # type: ignore[arg-type,return-value]
)


class Words(Family):
    """A token a word; ``?`` is unknown. Answers every text with itself, and notes its passes."""

    def __init__(self, info: ModelInfo = INFO) -> None:
        self.info, self.net, self.device = info, nn.Sequential(CrossAttention(2, 2, 1)), torch.device("cpu")
        self.passes: list[tuple[Any, list[str], MapRequest | None]] = []

    def encode(self, images: Sequence[Pixels]) -> list[EncodedImage]:
        return []

    def tokenize(self, text: str) -> TokenizedText:
        words = text.split()
        share = words.count("?") / len(words) if words else 0.0
        return TokenizedText([0] * len(words), words, [None if w == "[X]" else (0, 1) for w in words], share)

    def _run(self, task: Any, items: Any, texts: Any, maps: Any) -> list[Output]:
        assert [[t.texts for t in group] for group in texts] == [[t.split() for t in item.texts] for item in items]
        self.passes.append((task, [text for item in items for text in item.texts], maps))
        return [Output(tuple(TextOutput((Ranked(t, 1.0),), "vocabulary", 0.0) for t in item.texts)) for item in items]


def item(*texts: str, **options: Any) -> Item:
    return Item(None, texts, **options)  # type: ignore[arg-type]


def error(model: Family, asked: Item, task: Any = "answer") -> ItemError:
    (found,) = model.run(task, [asked])
    assert isinstance(found, ItemError)
    return found


def test_items_of_equal_maps_share_a_pass_and_come_back_in_order() -> None:
    model, raw = Words(), MapRequest("raw", (2, 0))
    asked = [item("a", maps=raw), item("b", "c"), item("d", maps=MapRequest("raw", (0, 2))), item(""), item("e")]
    outputs = model.run("answer", asked)
    first = [o.texts[0].ranking[0].answer if isinstance(o, Output) else o.code for o in outputs]
    assert first == ["a", "b", "d", "question_empty", "e"]
    assert model.passes == [("answer", ["a", "d"], MapRequest("raw", (0, 2))), ("answer", ["b", "c", "e"], None)]


@pytest.mark.parametrize(
    ("asked", "default_layers", "resolved"),
    [
        (MapRequest(), None, MapRequest("gradient", (0, 1, 2))),
        (MapRequest(), (1,), MapRequest("gradient", (1,))),
        (MapRequest("raw"), (1,), MapRequest("raw", (1,))),
        (MapRequest(None, (2, 0, 2)), (1,), MapRequest("gradient", (0, 2))),
    ],
)
def test_defaults_are_filled_in(asked: MapRequest, default_layers: Any, resolved: MapRequest) -> None:
    model = Words(replace(INFO, default_layers=default_layers))
    model.run("answer", [item("a", maps=asked)])
    assert model.passes == [("answer", ["a"], resolved)]


def test_a_task_that_it_lacks() -> None:
    found = Words().run("match", [item("a"), item("b")])
    assert [(o.code, o.message) for o in found if isinstance(o, ItemError)] == [
        ("task_not_supported", "words cannot match; it can answer, caption.")
    ] * 2


@pytest.mark.parametrize("maps", [MapRequest("rollout"), MapRequest("raw", (3,)), MapRequest(None, (0, -1))])
def test_maps_that_it_cannot_make(maps: MapRequest) -> None:
    found = error(Words(), item("a", maps=maps))
    assert (found.code, found.message) == ("map_not_supported", "maps are raw, gradient of layers [0, 1, 2]")


def test_a_model_without_maps() -> None:
    blind = Words(replace(INFO, map_kinds=(), default_map_kind=None))
    assert error(blind, item("a", maps=MapRequest())).message == "words makes no maps."


@pytest.mark.parametrize("text", ["", " \n", "[X] [X]"])
def test_a_text_without_a_token_of_its_own_is_empty_but_for_a_caption(text: str) -> None:
    found = error(Words(), item("a", text))
    assert (found.code, found.index) == ("question_empty", 1)
    assert isinstance(Words().run("caption", [item(text)])[0], Output)


def test_a_text_may_have_as_many_tokens_as_the_model_takes() -> None:
    found = error(Words(), item("a", "a b c d e"))
    assert (found.code, found.index, found.detail) == ("question_too_long", 1, {"tokens": 5, "limit": 4})
    assert isinstance(Words().run("answer", [item("a b c d")])[0], Output)


def test_a_text_is_not_understood_where_more_than_half_is_unknown() -> None:
    found = error(Words(replace(INFO, languages=("en", "zh", "xx"))), item("a", "? ? b"))
    assert (found.code, found.index, found.detail) == (
        "question_not_understood",
        1,
        {"unknown_share": 0.667, "languages": ["en", "zh", "xx"]},
    )
    assert (
        found.message
        == "More than half of the text is unknown to the model; the model reads English and Chinese and xx."
    )
    assert isinstance(Words().run("answer", [item("? b")])[0], Output)


def test_a_family_may_refuse_more() -> None:
    class Short(Words):
        def _check_own(self, task: Any, item: Item, texts: Sequence[TokenizedText]) -> ItemError | None:
            return ItemError("question_too_long", "two words", 0) if len(texts[0].ids) > 1 else None

    assert error(Short(), item("a b")).message == "two words"
    assert isinstance(Short().run("answer", [item("a")])[0], Output)


def test_the_kernel_is_set_for_all_its_cross_attention() -> None:
    model = Words()
    model.use_kernel("reference")
    assert model.net[0].kernel == "reference"  # type: ignore[index]
    with pytest.raises(ValueError, match="unknown kernel"):
        model.use_kernel("fast")
