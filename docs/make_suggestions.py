"""Chooses by measurement what the page suggests to ask about the example images: ``python -m docs.make_suggestions``.

`examples/questions.json` holds questions with their right answers and, where they are about a thing, the boxes on it
(left, top, right, bottom as shares of the image's sides). Of each image those are kept that the default model answers
right and is sure of, with what the page outlines of the answer's map in the boxes: at most `MOST` about things that are
there, since their maps have something to show, then one whose thing is not there, that with the most of its map off the
image. Two with one answer about one thing are one too many. Those that are marked as a failure are kept where the model
does fail, behind the others: they show what it cannot do. Where the model reads Chinese, the same is done with the
questions in Chinese. The choice is written to app/web/suggestions.js.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.wire import reliability
from crosslook.results import is_unsure
from model.evaluation.judging import judged_form
from model.interface import Item, MapRequest, Model, Output, TextOutput

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
WRITTEN = ROOT / "app" / "web" / "suggestions.js"
MOST = 3
_INSIDE = 0.75  # of the outlined cells: their centres lie in the boxes
_LARGEST = 1 / 8  # of the grid: app/web/maps.js outlines no more


class Asked(NamedTuple):
    """A question with what came of it: whether it was ``right``, whether it was ``pointed`` at the thing (where it is
    about none, it was), and whether it is ``sure``: else the page says that it is not. ``off``: the share of the map
    that lies on no place of the image."""

    question: str
    failure: bool
    answer: str
    score: float
    right: bool
    pointed: bool
    sure: bool
    off: float
    about: str

    @property
    def kept(self) -> bool:
        """Whether it may be suggested."""
        return not self.right if self.failure else self.right and self.pointed and self.sure


def pool() -> dict[str, list[dict[str, Any]]]:
    """The questions that may be chosen, by image."""
    found: dict[str, list[dict[str, Any]]] = json.loads((EXAMPLES / "questions.json").read_text(encoding="utf-8"))
    return found


def ask(model: Model, name: str, rows: list[dict[str, Any]], wording: str = "question") -> list[Asked]:
    """Ask a model about one example, in the ``wording`` of this key (``zh`` is Chinese)."""
    with Image.open(EXAMPLES / f"{name}.jpg") as image:
        (encoded,) = model.encode([model.info.preprocess(image.convert("RGB"))])
    texts = tuple(row[wording] for row in rows)
    (output,) = model.run("answer", [Item(encoded, texts, maps=MapRequest())])
    if not isinstance(output, Output):
        raise output
    return [_judged(model, row, row[wording], text) for row, text in zip(rows, output.texts, strict=True)]


def _judged(model: Model, row: dict[str, Any], question: str, text: TextOutput) -> Asked:
    best = text.ranking[0]
    english = getattr(best, "english", None) or best.answer
    right = judged_form(english) in map(judged_form, row["answers"])
    if text.answer_map is None:
        raise ValueError(f"{question}: the model made no map")
    values, elsewhere = text.answer_map.values, text.answer_map.elsewhere
    off = elsewhere / (elsewhere + float(values.clip(0).sum()))
    pointed = "at" not in row or (off < 0.5 and _within(values, row["at"]))
    worth = reliability(model.info, question, text)
    sure = not is_unsure([ranked.score for ranked in text.ranking], worth, text.score_over)
    failure, about = row.get("failure", False), str(row.get("at", ""))
    return Asked(question, failure, best.answer, best.score, right, pointed, sure, off, about)


def _within(values: NDArray[np.float32], boxes: list[list[float]]) -> bool:
    """Whether the strongest cell of a map is in one of the boxes, and `_INSIDE` of its strongest region with it. The
    default model's grid covers the whole image."""
    rows, columns = values.shape
    places = [((column + 0.5) / columns, (row + 0.5) / rows) for row, column in strongest_region(values)]
    inside = [any(box[0] <= x <= box[2] and box[1] <= y <= box[3] for box in boxes) for x, y in places]
    return inside[0] and sum(inside) >= _INSIDE * len(inside)


def strongest_region(values: NDArray[np.float32]) -> list[tuple[int, int]]:
    """The cells (row, column) that the page outlines (``strongestCells`` in app/web/maps.js), the strongest first."""
    rows, columns = values.shape
    peak = np.unravel_index(int(values.argmax()), values.shape)
    border, found = {(int(peak[0]), int(peak[1]))}, list[tuple[int, int]]()
    while border:
        row, column = cell = max(border, key=lambda place: float(values[place]))
        if values[cell] < values.max() / 2 or len(found) >= max(1, rows * columns * _LARGEST):
            break
        border.remove(cell)
        found.append(cell)
        beside = {(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)}
        border |= {(r, c) for r, c in beside if 0 <= r < rows and 0 <= c < columns and (r, c) not in found}
    return found


def choose(model: Model, wording: str) -> tuple[dict[str, list[str]], list[str]]:
    """What to suggest of each image, and which of it is a failure; prints what came of every question."""
    chosen: dict[str, list[str]] = {}
    failures: list[str] = []
    for name, rows in pool().items():
        asked = ask(model, name, [row for row in rows if wording in row], wording)
        for each in asked:
            marks = "right" if each.right else "WRONG"
            marks += ("" if each.pointed else ", points elsewhere") + ("" if each.sure else ", not sure")
            print(f"{name:10}{each.question:34}{each.answer:14}{each.score:6.1%}  {marks}")  # noqa: T201
        kept = [each for each in asked if each.kept]
        chosen[name] = [each.question for each in best(kept)]
        failures += [f"{name}: {each.question}" for each in asked if each.failure and each.kept]
    return chosen, failures


def best(kept: list[Asked]) -> list[Asked]:
    """Those of one image that are suggested, in the order of the page."""
    told: set[tuple[str, str]] = set()
    there: list[Asked] = []
    for each in kept:
        if each.about and (each.answer, each.about) not in told:
            there.append(each)
            told.add((each.answer, each.about))
    absent = sorted((each for each in kept if not each.about and not each.failure), key=lambda each: -each.off)
    return [*there[:MOST], *absent[:1], *(each for each in kept if each.failure)]


def main() -> int:
    """Choose and write."""
    from model.registry import load_model

    model = load_model("compact")
    chosen, failures = choose(model, "question")
    chinese, more = choose(model, "zh") if "zh" in model.info.languages else ({}, [])
    WRITTEN.write_text(
        f"""// What may be asked about the examples: made by python -m docs.make_suggestions, on the model's weights.

export const SUGGESTIONS = {json.dumps(chosen, indent=2)};

// In Chinese; none where the model does not read it.
export const SUGGESTIONS_ZH = {json.dumps(chinese, indent=2, ensure_ascii=False)};

// Suggested though the answer is wrong: to show what the model cannot do.
export const FAILURES = {json.dumps(failures + more, ensure_ascii=False)};
""",
        encoding="utf-8",
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
