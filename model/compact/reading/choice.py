"""Which text in an image a question asks for: pieces of the lines, and how likely each is the answer.

A multinomial logit (McFadden 1974) over the pieces and over *none of them*: so the scores are probabilities, and what
they leave is that the text asked for was not read, or was read wrongly. Its weights are fitted to people's questions by
``python -m model.training.reading_fit``.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.compact.reading.lines import Line
from model.compact.reading.questions import Asked

FEATURES = (
    "bias", "hinted", "log_height", "confidence", "looked_at", "joined", "log_words", "one_sign", "off_centre", "side",
    "number", "known",
)  # fmt: skip
WEIGHTS = Path(__file__).with_name("weights.json")

_NUMBER = re.compile(r"[A-Za-z]*\d[\w.,:/#-]*")
_TIME = re.compile(r"\b\d{1,2}[:.]\d{2}\b")
_AS_DIGITS = str.maketrans("OoQIl|SB", "00011158")
_SMALLEST = 1e-4
_MOST_COMPARED = 1_000_000  # pairs of letters; at the worst a microsecond or two each


@dataclass(frozen=True, slots=True)
class Piece:
    """A text that may be the answer, and the lines that it is made of."""

    text: str
    lines: tuple[Line, ...]


def find_pieces(lines: Sequence[Line], asked: Asked) -> list[Piece]:
    """All texts of the kind that was asked for, each once, in reading order."""
    found: dict[str, Piece] = {}
    for line in lines:
        for text in _texts(line.text, asked.kind):
            found.setdefault(text.lower(), Piece(text, (line,)))
    if asked.kind in ("words", "name"):
        for block in find_blocks(lines):
            text = " ".join(line.text for line in block)
            found.setdefault(text.lower(), Piece(text, block))
    return list(found.values())


def _texts(line: str, kind: str) -> list[str]:
    if kind == "number":
        text = line
        if sum(c.isdigit() for c in line) * 2 > sum(c.isalnum() for c in line):
            text = line.translate(_AS_DIGITS)
        return [match.strip(".,:-#/") for match in _NUMBER.findall(text)]
    if kind == "time":
        return [match.replace(".", ":") for match in _TIME.findall(line)]
    return [line]


def find_blocks(lines: Sequence[Line]) -> list[tuple[Line, ...]]:
    """Lines that stand together, as on one sign: of like height, one below or beside the other. Blocks of two lines or
    more, each in reading order."""
    block = list(range(len(lines)))
    for i, a in enumerate(lines):
        for j in range(i):
            if block[i] != block[j] and _together(a, lines[j]):
                old, new = block[i], block[j]
                block = [new if own == old else own for own in block]
    found = [[line for line, own in zip(lines, block, strict=True) if own == name] for name in dict.fromkeys(block)]
    return [tuple(_in_reading_order(members)) for members in found if len(members) > 1]


def _together(a: Line, b: Line) -> bool:
    smaller, larger = sorted((a.height, b.height))
    if larger > 2.2 * smaller:
        return False
    across = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])  # the overlap, negative for a gap
    down = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    below = across > 0.3 * min(a.box[2] - a.box[0], b.box[2] - b.box[0]) and down > -1.2 * smaller
    beside = down > 0.5 * smaller and across > -1.5 * smaller
    return below or beside


def _in_reading_order(lines: Sequence[Line]) -> list[Line]:
    """Row by row: lines whose middles are within half a line's height share a row."""
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: line.box[1] + line.box[3]):
        middle = (line.box[1] + line.box[3]) / 2
        last = rows[-1][0] if rows else None
        if last is not None and middle - (last.box[1] + last.box[3]) / 2 < 0.5 * last.height:
            rows[-1].append(line)
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: line.box[0])]


def cover(lines: Sequence[Line], rows: int, columns: int) -> NDArray[np.float32]:
    """How much of each cell ``[rows, columns]`` of a grid over the whole image lies under the lines' boxes, 0 to 1."""
    whole = np.zeros((rows, columns))
    for line in lines:
        left, top, right, bottom = line.box
        across = np.clip(
            np.minimum(right * columns, np.arange(1, columns + 1)) - np.maximum(left * columns, np.arange(columns)),
            0,
            1,
        )
        down = np.clip(
            np.minimum(bottom * rows, np.arange(1, rows + 1)) - np.maximum(top * rows, np.arange(rows)), 0, 1
        )
        whole = np.maximum(whole, down[:, None] * across)
    return whole.astype(np.float32)


def describe(
    pieces: Sequence[Piece], asked: Asked, question: str, looks: NDArray[np.floating[Any]], known: Sequence[bool]
) -> NDArray[np.float64]:
    """Features ``[pieces, len(FEATURES)]``. ``looks`` ``[rows, columns]``: where the question's words look, each cell's
    share; ``known``: which pieces are answers of the model's vocabulary."""
    tallest = max((line.height for piece in pieces for line in piece.lines), default=1.0)
    to_right, to_bottom = _sides(question)
    table = []
    for piece, is_known in zip(pieces, known, strict=True):
        height = float(np.mean([line.height for line in piece.lines]))
        boxes = np.array([line.box for line in piece.lines])
        x, y = (boxes[:, [0, 2]].mean(), boxes[:, [1, 3]].mean())
        under = cover(piece.lines, *looks.shape)
        looked = float((under * looks).sum()) / max(float(looks.sum()), _SMALLEST)
        lift = np.log((looked + _SMALLEST) / (float(under.mean()) + _SMALLEST))
        table.append(
            (
                1.0,
                float(not asked.only_text),
                np.log(max(height, _SMALLEST) / max(tallest, _SMALLEST)),
                np.mean([line.confidence for line in piece.lines]),
                np.clip(lift, -2.0, 2.0),
                float(len(piece.lines) > 1),
                np.log(len(piece.text.split())),
                float(len(piece.text) == 1),
                abs(x - 0.5) + abs(y - 0.5),
                to_right * (x - 0.5) + to_bottom * (y - 0.5),
                float(asked.kind == "number"),
                float(is_known),
            )
        )
    return np.array(table, dtype=np.float64).reshape(-1, len(FEATURES))


def _sides(question: str) -> tuple[int, int]:
    """Where the question points to: -1 left, 1 right, 0 neither; -1 top, 1 bottom, 0 neither."""
    words = set(re.findall(r"[a-z]+|[左右]|上方|顶部|下方|底部", question.lower()))
    right = bool(words & {"right", "右"}) - bool(words & {"left", "左"})
    down = bool(words & {"bottom", "lower", "below", "down", "下方", "底部"}) - bool(
        words & {"top", "upper", "above", "上方", "顶部"}
    )
    return right, down


def probabilities(features: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """``[pieces]``: how likely each is the answer; what they lack to 1 is that none is."""
    logits = np.append(features @ weights, 0.0)
    odds = np.exp(logits - logits.max())
    shares: NDArray[np.float64] = odds[:-1] / odds.sum()
    return shares


@cache
def load_weights() -> tuple[NDArray[np.float64], float]:
    """The weights ``[len(FEATURES)]``, and how often *no text found* was what people answered."""
    stored = json.loads(WEIGHTS.read_text(encoding="utf-8"))
    return np.array([stored["weights"][name] for name in FEATURES]), float(stored["no_text"])


def plain(text: str) -> str:
    """The text as texts are compared: letters and digits in lower case."""
    return "".join(c for c in text.lower() if c.isalnum())


def likeness(a: str, b: str) -> float:
    """From 0 to 1: twice the letters in common, in order, by the letters of both."""
    return difflib.SequenceMatcher(None, plain(a), plain(b), autojunk=False).ratio()


def likenesses(texts: Sequence[str], others: Sequence[str], least: float) -> NDArray[np.float64]:
    """`likeness` of each text and each of the others ``[texts, others]``; 0 where it is below ``least``, and for
    what is left after `_MOST_COMPARED`: to compare takes as long as the product of both lengths, or longer."""
    found: NDArray[np.float64] = np.zeros((len(texts), len(others)))
    first, left = [plain(text) for text in texts], _MOST_COMPARED
    matcher = difflib.SequenceMatcher(None, autojunk=False)
    for column, other in enumerate(map(plain, others)):
        matcher.set_seq2(other)
        for row, text in enumerate(first):
            matcher.set_seq1(text)
            if matcher.real_quick_ratio() < least or matcher.quick_ratio() < least:
                continue
            left -= len(text) * len(other)
            if left < 0:
                return found
            ratio = matcher.ratio()
            found[row, column] = ratio if ratio >= least else 0.0
    return found
