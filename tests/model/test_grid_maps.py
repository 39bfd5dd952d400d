"""Words from spans, and rows of attention on the grid."""

from __future__ import annotations

import numpy as np
import pytest

from model.grid_maps import find_words, make_tokens, place_on_grid
from model.interface import Geometry, Region


def words(text: str) -> list[str]:
    """The words where every character is a token."""
    found = find_words(text, [(i, i + 1) for i in range(len(text))])
    for word in found:
        assert text[slice(*word.span)] == word.text
        assert word.tokens == tuple(range(*word.span))
    return [word.text for word in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is this?", ["What", "is", "this"]),
        ("the man's dog", ["the", "man's", "dog"]),
        ("What’s up", ["What’s", "up"]),
        ("a well-known T-shirt", ["a", "well-known", "T-shirt"]),
        ("non‑breaking", ["non‑breaking"]),
        ("'quoted' -dash- ", ["quoted", "dash"]),
        ("caf\u00e9s cafe\u0301s", ["caf\u00e9s", "cafe\u0301s"]),
        ("2 cats, 10%", ["2", "cats", "10"]),
        ("is \U0001f431 here", ["is", "here"]),
        ("\U0001f469\u200d\U0001f467 it", ["it"]),  # a joiner without letters
        ("\u0939\u093f\u0928\u094d\u0926\u0940 it", ["\u0939\u093f\u0928\u094d\u0926\u0940", "it"]),  # Hindi
        ("\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd", ["\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd"]),  # Hebrew
        ("what\u00adever", ["what\u00adever"]),
        ("...!?", []),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_a_word_has_the_tokens_that_touch_it_and_no_special_ones() -> None:
    spans = [None, (0, 3), (3, 5), (6, 9), (9, 10), None]
    found = find_words("catty dog?", spans)
    assert [(w.text, w.tokens) for w in found] == [("catty", (1, 2)), ("dog", (3,))]


def test_a_word_without_tokens_is_left_out() -> None:
    assert [w.text for w in find_words("is this true", [None, (8, 12)])] == ["true"]


def grid(rows: int, columns: int, cells: tuple[int, ...] | None = None) -> Geometry:
    return Geometry(60, 40, rows, columns, Region(0, 0, 60, 40), cells)


def test_a_row_fills_the_grid_row_by_row_and_nothing_is_dropped() -> None:
    row = np.arange(1.0, 10.0, dtype=np.float32)
    placed, double = place_on_grid(np.stack([row, 2 * row]), grid(2, 3), 2)
    assert placed.values.tolist() == [[3, 4, 5], [6, 7, 8]]
    assert placed.elsewhere == 1 + 2 + 9
    assert double.values.tolist() == [[6, 8, 10], [12, 14, 16]]
    assert double.elsewhere == 2 * placed.elsewhere
    assert place_on_grid(row[None] / 45, grid(2, 3), 0)[0].elsewhere == pytest.approx((7 + 8 + 9) / 45)


def test_keys_fill_the_cells_that_the_geometry_names() -> None:
    """Tiles: keys in any order, two keys of one cell, and keys that are no place between them."""
    row = np.arange(1.0, 7.0, dtype=np.float32)
    cells = grid(2, 2, (-1, 3, 0, 3, -1, 1))
    placed, double = place_on_grid(np.stack([row, 2 * row]), cells, 1)
    assert placed.values.tolist() == [[3, 6], [0, 2 + 4]]
    assert placed.elsewhere == 1 + 5
    assert double.values.tolist() == [[6, 12], [0, 12]]
    assert place_on_grid(row[None] / 42, cells, total=1.0)[0].elsewhere == pytest.approx(1 - 15 / 42)


@pytest.mark.parametrize("cells", [(0, 1, 2), (0, 1, 2, 4), (0, 1, -2, 3)])
def test_cells_that_fit_neither_keys_nor_grid_are_refused(cells: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"one per key \(4\), from -1 to 3"):
        place_on_grid(np.ones((1, 4), np.float32), grid(2, 2, cells))


def test_elsewhere_of_a_part_is_what_it_lacks() -> None:
    row = np.array([0.25, 0.25, 0.125], dtype=np.float32)
    placed, over = place_on_grid(np.stack([row, row * 4]), grid(1, 2), 1, total=1.0)
    assert placed.elsewhere == 1 - 0.375
    assert over.elsewhere == 0.0  # never below


def test_elsewhere_is_never_negative_by_rounding() -> None:
    rng = np.random.default_rng(0)
    rows = rng.random((200, 257)).astype(np.float32)
    rows[:, 0] = 0
    assert all(placed.elsewhere == 0.0 for placed in place_on_grid(rows / rows.sum(1, keepdims=True), grid(16, 16), 1))


def test_tokens_without_a_span_are_special() -> None:
    tokens = make_tokens(["[CLS]", "cat"], [None, (0, 3)])
    assert [(t.text, t.span, t.special, t.map) for t in tokens] == [
        ("[CLS]", None, True, None),
        ("cat", (0, 3), False, None),
    ]
    with pytest.raises(ValueError, match="zip"):
        make_tokens(["[CLS]", "cat"], [None])
