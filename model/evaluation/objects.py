"""Does it see what is there? Questions with known answers, from photographs with every object's box.

* *presence*: "Is there a dog?", of every class that is in a photograph, and of as many that are not, drawn by how often
  they occur together with those that are: a model that guesses from the scene says *yes* to those;
* *counting*: "How many dogs are there?", of every class that is there;
* *the word's map*: whether the highest cell of the map of the class's word lies in a box of the class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model.evaluation.ask import IMAGES_AT_ONCE, by_batch_key, encode_images
from model.evaluation.data import DataError, DataSet, Objects
from model.evaluation.judging import Interval, bootstrap, normalise
from model.interface import Item, ItemError, MapRequest, Model, TextOutput

_IRREGULAR = {
    "person": "people", "mouse": "mice", "knife": "knives", "sheep": "sheep", "skis": "skis", "scissors": "scissors",
    "wine glass": "wine glasses", "bus": "buses", "bench": "benches", "couch": "couches", "sandwich": "sandwiches",
    "toothbrush": "toothbrushes", "potted plant": "potted plants", "man": "men", "woman": "women", "child": "children",
    "broccoli": "broccoli", "hair drier": "hair driers",
}  # fmt: skip


def plural(name: str) -> str:
    """The plural of a class's name."""
    return _IRREGULAR.get(name) or f"{name}s"


def article(name: str) -> str:
    """The name with *a*, *an* or, where it is a plural already, *any*."""
    if plural(name) == name and name.endswith("s"):
        return f"any {name}"
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


class ObjectQuestion(NamedTuple):
    """``number`` of the objects of class ``name`` is what is true; *presence* asks whether it is above 0."""

    text: str
    name: str
    number: int
    presence: bool


@dataclass(frozen=True, slots=True)
class ObjectFigures:
    """All in fractions of 1: *yes* where it is there, *no* where it is not, both together (as many of each), exact
    counts, what always saying *1* gets, and peaks of the word's map on the thing, beside the image's centre."""

    images: int
    there: Interval
    absent: Interval
    balanced: Interval
    counts: Interval
    always_one: Interval
    word_on_box: Interval | None
    centre_on_box: Interval


def object_questions(records: Sequence[Objects], seed: int = 0) -> list[list[ObjectQuestion]]:
    """What is asked about each photograph; the same for the same records and seed."""
    counts = [Counter(box.name for box in record.objects) for record in records]
    names = sorted({name for found in counts for name in found})
    present = np.array([[name in found for name in names] for found in counts], dtype=np.float64)
    together = present.T @ present
    rng = np.random.default_rng(seed)
    asked = []
    for row, found in enumerate(counts):
        there = [name for name in names if name in found]
        absent = np.flatnonzero(present[row] == 0)
        weights = together[present[row] > 0].sum(0)[absent] + 0.1
        drawn = rng.choice(absent, min(len(there), len(absent)), replace=False, p=weights / weights.sum())
        questions = [
            ObjectQuestion(f"Is there {article(name)} in the photo?", name, found[name], True)
            for name in (*there, *(names[i] for i in drawn))
        ]
        questions += [ObjectQuestion(f"How many {plural(name)} are there?", name, found[name], False) for name in there]
        asked.append(questions)
    return asked


def measure_objects(model: Model, data: DataSet, *, images: int | None = None, seed: int = 0) -> ObjectFigures:
    """Ask a model about the photographs of ``data`` that have boxes (at most ``images`` of them).

    Raises:
        DataError: there are none.
    """
    records = data.objects[:images]
    if not records:
        raise DataError("no photograph has boxes (docs/data.md)")
    asked = object_questions(records, seed)
    request = MapRequest() if model.info.map_kinds else None
    hits: dict[str, tuple[list[float], list[int]]] = {}

    def note(name: str, hit: bool, row: int) -> None:
        values, rows = hits.setdefault(name, ([], []))
        values.append(float(hit))
        rows.append(row)

    for start in tqdm(range(0, len(records), IMAGES_AT_ONCE), desc="objects", unit="batch", disable=None):
        part = range(start, min(start + IMAGES_AT_ONCE, len(records)))
        encoded = encode_images(model, (data.open_image(records[i].image_ref) for i in part))
        for members in by_batch_key(encoded):
            items = [Item(encoded[i], tuple(q.text for q in asked[start + i]), top_k=1, maps=request) for i in members]
            for i, output in zip(members, model.run("answer", items), strict=True):
                row = start + i
                if isinstance(output, ItemError):
                    raise DataError(f"{records[row].image_ref.name}: {output.message}")
                for question, text in zip(asked[row], output.texts, strict=True):
                    answer = normalise(text.ranking[0].answer)
                    if not question.presence:
                        note("counts", answer == str(question.number), row)
                        note("one", question.number == 1, row)
                        continue
                    hit = answer == ("yes" if question.number else "no")
                    note("there" if question.number else "absent", hit, row)
                    note("balanced", hit, row)
                    if question.number:
                        boxes = [box.box for box in records[row].objects if box.name == question.name]
                        note("centre", _inside(0.5, 0.5, boxes), row)
                        peak = _word_peak(text, question)
                        if peak is not None:
                            note("word", _inside(*peak, boxes), row)
    found = {name: bootstrap(*pair) for name, pair in hits.items()}
    return ObjectFigures(
        images=len(records),
        there=found["there"],
        absent=found["absent"],
        balanced=found["balanced"],
        counts=found["counts"],
        always_one=found["one"],
        word_on_box=found.get("word"),
        centre_on_box=found["centre"],
    )


def _inside(x: float, y: float, boxes: Sequence[tuple[float, float, float, float]]) -> bool:
    return any(left <= x <= right and top <= y <= bottom for left, top, right, bottom in boxes)


def _word_peak(text: TextOutput, question: ObjectQuestion) -> tuple[float, float] | None:
    """The middle (x, y) of the highest cell of the map of the class's words, as shares of the image's sides."""
    words = set(question.name.split())
    maps: list[NDArray[np.float32]] = []
    for word in text.words:
        if word.text.lower() in words:
            maps += [m.values for m in (text.tokens[i].map for i in word.tokens) if m is not None]
    if not maps:
        return None
    mean = np.mean(maps, axis=0)
    row, column = np.unravel_index(int(mean.argmax()), mean.shape)
    return (float(column) + 0.5) / mean.shape[1], (float(row) + 0.5) / mean.shape[0]
