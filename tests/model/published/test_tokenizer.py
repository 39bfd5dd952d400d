"""Tokens are those of transformers, their spans lie in the text as it was sent, and what a user types is text."""

from __future__ import annotations

import random
from typing import Any

import pytest
from transformers import AutoTokenizer

from model.grid_maps import find_words
from model.interface import Item, MapRequest
from tests.model.published.checkpoints import make_image
from tests.model.published.conftest import DualPair, Pair

ALPHABET = (
    "abc atred the XYZ \u00e9\u00d1\u0130\u00df\ufb01\u2019\u2014-'.,?! \t\n\u200b\u0301\u3042\ud55c\u0939\u093f"
    "\U0001f600\u200d\uff12\u00bd\u01c5\u0149\u2581\u03a3\u0391\u03c3\u00a0\u3000\u30ab\uff9e\u2026\u2460\uff43"
)
WIDE = "\uff43\uff41\uff54"  # cat in letters as wide as Chinese ones; SentencePiece makes plain ones of them


def tokens(pair: Any, text: str) -> list[tuple[str, str | None]]:
    """Each token, with the part of the text that it stands for."""
    found = pair.ours.tokenizer(text)
    spans = [None if span is None else text[slice(*span)] for span in found.spans]
    return list(zip(found.texts, spans, strict=True))


def texts_of_chance(count: int) -> list[str]:
    """Signs of many scripts, in any order."""
    rng = random.Random(0)
    return ["".join(rng.choices(ALPHABET, k=rng.randint(0, 14))) for _ in range(count)]


@pytest.mark.parametrize("name", ["clip", "siglip", "answer"])
def test_any_text_has_the_tokens_of_transformers_and_spans_that_run_forward(
    name: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(name).ours.tokenizer
    theirs = AutoTokenizer.from_pretrained(tokenizer.hub.name_or_path)
    for text in texts_of_chance(400):
        found = tokenizer(text)
        assert found.ids == theirs(text)["input_ids"], text
        last = 0
        for token, span in zip(found.texts, found.spans, strict=True):
            if span is None:  # one of the tokenizer's own, or the mark that it puts before the first word
                assert token in (*theirs.all_special_tokens, "\u2581"), text
                continue
            assert last <= span[0] < span[1] <= len(text), text
            last = span[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{WIDE} red cat", [("▁cat", WIDE), ("▁", " "), ("re", "re"), ("d", "d"), ("▁cat", "cat")]),
        ("\u24d2at, cat", [("▁cat", "\u24d2at"), ("▁cat", "cat")]),
        ("\ufb01 cat", [("▁", None), ("f", "\ufb01"), ("i", "\ufb01"), ("▁cat", "cat")]),
        ("cat \u00bd  cat", [("▁cat", "cat"), ("▁", " "), ("<unk>", "\u00bd"), ("▁cat", "cat")]),
        ("  Cat!\u200b THE", [("▁cat", "Cat"), ("▁the", "THE")]),
    ],
)
def test_what_sentencepiece_normalises_keeps_its_place(
    siglip: DualPair, text: str, expected: list[tuple[str, str | None]]
) -> None:
    assert tokens(siglip, text)[:-1] == expected


def test_every_word_has_its_tokens_behind_one_that_is_normalised(siglip: DualPair) -> None:
    text = f"{WIDE} red cat"
    image = siglip.encode(make_image(50, 50))
    found = siglip.ours.run("match", [Item(image, (text,), maps=MapRequest())])[0].texts[0]
    assert [(word.text, word.tokens) for word in found.words] == [(WIDE, (0,)), ("red", (2, 3)), ("cat", (4,))]
    assert [token.special for token in found.tokens] == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("clip", "<|endoftext|>"),
        ("clip", "<|startoftext|>"),
        ("siglip", "</s>"),
        ("siglip", "<unk>"),
        ("answer", "[SEP]"),
        ("answer", "[MASK]"),
        ("caption", "[PAD]"),
    ],
)
def test_a_special_token_that_a_user_types_is_text(name: str, typed: str, request: pytest.FixtureRequest) -> None:
    """Some would end the text for the model, and all behind it would go unread."""
    pair = request.getfixturevalue(name)
    text = f"a {typed} cat"
    plain, found = pair.ours.tokenizer("a cat"), pair.ours.tokenizer(text)
    special = set(pair.ours.tokenizer.hub.all_special_ids) - {pair.ours.tokenizer.hub.unk_token_id}
    assert [i for i in found.ids if i in special] == [i for i in plain.ids if i in special]
    assert [word.text for word in find_words(text, found.spans)] == ["a", typed.strip("<|>[]/"), "cat"]


def test_what_comes_behind_a_typed_end_is_read(clip: DualPair) -> None:
    image = clip.encode(make_image(60, 60))
    texts = ("a <|endoftext|> red cat", "a <|endoftext|> blue dog")
    scores = [text.ranking[0].score for text in clip.ours.run("match", [Item(image, texts)])[0].texts]
    assert scores[0] != pytest.approx(scores[1], abs=1e-3)


def test_a_call_of_the_wrapped_tokenizer_changes_nothing(answer: Pair) -> None:
    """Its own calls set how the shared backend treats special tokens."""
    before = answer.ours.tokenizer("a [SEP] cat")
    answer.ours.tokenizer.hub("a cat")
    assert answer.ours.tokenizer("a [SEP] cat") == before
