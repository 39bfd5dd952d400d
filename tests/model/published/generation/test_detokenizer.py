"""Ids that become text while more of them come."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from model.published.generation.detokenizer import Detokenizer

LETTERS = "é→日".encode()


def decode_bytes(ids: Sequence[int]) -> str:
    """Ids that are bytes: letters of several tokens."""
    return bytes(ids).decode(errors="replace")


@pytest.mark.parametrize("stop", ["o", "at", "xyz"])
def test_what_is_shown_never_goes_back(stop: str) -> None:
    """The beginning of a stop string waits until it is none."""
    pieces = ["a c", "a", "t x", "y", " is", " so"]
    made = Detokenizer(lambda ids: "".join(pieces[i] for i in ids), (stop,))
    shown = ""
    for index in range(len(pieces)):
        made.add(index)
        shown += made.release(over=False)
        assert made.text.strip().startswith(shown)
        if made.stopped:
            break
    shown += made.release(over=True)
    whole = "".join(pieces)
    assert shown == made.answer == whole[: whole.index(stop) if stop in whole else len(whole)].strip()


def test_a_letter_is_shown_when_it_is_whole() -> None:
    """Its tokens share its span."""
    made = Detokenizer(decode_bytes)
    added = [made.add(byte) for byte in LETTERS]
    assert added == ["", "é", "", "", "→", "", "", "日"]
    assert made.spans == [(0, 1)] * 2 + [(1, 2)] * 3 + [(2, 3)] * 3


def test_a_letter_that_is_never_whole_stays_so() -> None:
    made = Detokenizer(decode_bytes)
    for byte in b"a" + LETTERS[:1]:
        made.add(byte)
    assert made.text == "a"
    made.end()
    assert made.answer == "a\ufffd"
    assert made.spans == [(0, 1), (1, 2)]


def test_spans_of_the_answer_begin_where_it_does() -> None:
    """The space around it is no part of it."""
    pieces = ["  ", " a", "b ", " "]
    made = Detokenizer(lambda ids: "".join(pieces[i] for i in ids))
    for index in range(len(pieces)):
        made.add(index)
    made.end()
    assert made.answer == "ab"
    assert made.answer_spans == [None, (0, 1), (1, 2), None]
