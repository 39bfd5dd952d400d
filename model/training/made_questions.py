"""Questions whose answers a detector and the colours of pixels know, drawn anew for every step.

A detector's word is taken only as far as it is sure: a class is there from a score of `SURE` on, and is not where no
box of it has more than `HARDLY`; between, *yes* and *no* share the answer, and so do counts, by how often such a score
was right. What is not there is drawn by how often it comes together with what is, so that the scene alone does not
tell. The boxes also teach maps where a word should look.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.compact.colours import COLOURS
from model.compact.objects import COUNTS
from model.evaluation.objects import article, plural
from model.training.tasks import Example

SURE, HARDLY = 0.4, 0.1
_UNSURE_SHARE = 0.25  # of presence: what the detector doubts
_RIGHT = (  # how often a class with this best score is there, where half of what is asked is; and a second one, a third
    ((0.0, 0.08, 0.12, 0.16, 0.22, 0.27, 0.35, 0.45, 0.6), (0.04, 0.12, 0.3, 0.5, 0.55, 0.72, 0.87, 0.97, 1.0)),
    ((0.08, 0.13, 0.18, 0.23, 0.28, 0.35, 0.42, 0.55, 0.65), (0.0, 0.06, 0.2, 0.35, 0.48, 0.58, 0.72, 0.9, 0.98)),
)
_SCORE_FROM = 0.25  # of what is asked how many it is
_COUNT_FROM = 0.35  # a box that the word's map should lie on
_BIG_ENOUGH = 0.015  # share of the image that a thing with a colour has
_DOMINANT = 0.5  # share of a box's middle
_NEUTRAL = frozenset({"black", "gray", "white", "brown"})
_TRIES = 6
_KINDS = {
    "presence": 0.36, "count": 0.24, "colour": 0.14, "is_colour": 0.04, "group": 0.1, "where": 0.05, "next_to": 0.03,
    "bigger": 0.02, "place": 0.02,
}  # fmt: skip
_READ = json.loads(Path(__file__).with_name("coco_classes.json").read_text(encoding="utf-8"))
CLASSES: list[str] = _READ["classes"]
_WORDINGS: dict[str, list[str]] = json.loads(Path(__file__).with_name("made_wordings.json").read_text(encoding="utf-8"))
_GROUPS: dict[str, list[int]] = {
    group: [CLASSES.index(name) for name in names] for group, names in _READ["groups"].items()
}
Boxes = tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of one image: ``objects`` ``[slots, 6]`` and their ``colours`` ``[slots, 11]``, as in
    `model.compact.objects`, best first."""

    objects: NDArray[np.float32]
    colours: NDArray[np.float32]

    def of(self, name: int, score: float) -> NDArray[np.intp]:
        """The slots ``[n]`` of a class with at least this score (0 to 1)."""
        return np.flatnonzero((self.objects[:, 0] == name) & (self.objects[:, 1] >= score))

    def boxes(self, slots: Sequence[int] | NDArray[np.intp]) -> Boxes:
        """The boxes of ``slots`` ``[n]``: left, top, right, bottom as shares of the image's sides."""
        return tuple(tuple(self.objects[slot, 2:].tolist()) for slot in slots)

    def best(self) -> NDArray[np.float32]:
        """The best score (0 to 1) of each class, ``[classes]``."""
        best = np.zeros(len(CLASSES), np.float32)
        np.maximum.at(best, self.objects[:, 0].astype(int), self.objects[:, 1])
        return best


@dataclass
class QuestionMaker:
    """Draws questions. ``together`` ``[80, 80]``: in how many images two classes are found."""

    together: NDArray[np.float64]
    held_out: bool = False
    """Use the wordings that training never has (the last of each kind)."""
    wordings: dict[str, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        self.wordings = {
            kind: (every[-1:] if self.held_out else every[:-1]) if len(every) > 2 else every
            for kind, every in _WORDINGS.items()
        }

    def draw(self, found: Found, said: frozenset[str], rng: random.Random) -> Example | None:
        """One question about an image of which ``said`` are the words of its captions; None where nothing is sure."""
        for _ in range(_TRIES):
            kind = rng.choices(list(_KINDS), list(_KINDS.values()))[0]
            example: Example | None = getattr(self, f"_{kind}")(found, said, rng)
            if example is not None:
                return example
        return None

    def _ask(
        self, kind: str, rng: random.Random, answer: str, name: str = "", boxes: Boxes | None = None, **more: Any
    ) -> Example:
        wording = rng.choice(self.wordings[kind])
        words = {"{a_x}": article(name) if name else "", "{xs}": plural(name) if name else "", "{x}": name}
        text, span = wording, None
        for key, value in words.items():
            if key in text:
                for other, filling in more.items():
                    text = text.replace(f"{{{other}}}", filling) if text.find(f"{{{other}}}") < text.find(key) else text
                start = text.index(key) + (len(value) - len(name) if key == "{a_x}" else 0)
                text = text.replace(key, value)
                span = (start, text.index(value) + len(value))
        for other, filling in more.items():
            text = text.replace(f"{{{other}}}", filling)
        return Example(text, {answer: 1.0}, word=span, boxes=boxes)

    def _called(self, index: int, rng: random.Random) -> str:
        name = CLASSES[index]
        return str(rng.choice([name, name, *_READ["other_names"].get(name, [])]))

    def _presence(self, found: Found, said: frozenset[str], rng: random.Random) -> Example | None:
        best = found.best()
        if rng.random() < 0.12:  # of a group, such as animals
            group = rng.choice(list(_GROUPS))
            slots = np.flatnonzero(np.isin(found.objects[:, 0], _GROUPS[group]) & (found.objects[:, 1] >= SURE))
            if len(slots):
                asked = self._ask("presence", rng, "yes", group, found.boxes(slots))
                return replace(asked, counted=likely(found.objects[slots, 1]))
            hardly = best[_GROUPS[group]].max() <= HARDLY and not said
            return replace(self._ask("presence", rng, "no", group, ()), counted=(1.0,)) if hardly else None
        unsure = np.flatnonzero((best > HARDLY) & (best < SURE))
        if len(unsure) and rng.random() < _UNSURE_SHARE:
            index = int(rng.choice(unsure.tolist()))
            counted = likely(found.objects[found.of(index, 0.0), 1])
            asked = self._ask("presence", rng, "yes", self._called(index, rng))
            return replace(asked, targets={"yes": 1 - counted[0], "no": counted[0]}, word=None, counted=counted)
        there = np.flatnonzero(best >= SURE)
        if rng.random() < 0.5:
            if not len(there):
                return None
            rare = 1 / np.sqrt(self.together[there, there] + 1)
            index = int(rng.choices(there.tolist(), rare.tolist())[0])
            asked = self._ask("presence", rng, "yes", self._called(index, rng), found.boxes(found.of(index, 0.3)))
            return replace(asked, counted=likely(found.objects[found.of(index, 0.0), 1]))
        absent = np.flatnonzero(best <= HARDLY)
        absent = absent[[not said.intersection(CLASSES[i].split()) for i in absent]] if said else absent
        if not len(absent):
            return None
        often = self.together[there].sum(0)[absent] if len(there) and rng.random() < 0.8 else np.ones(len(absent))
        index = int(rng.choices(absent.tolist(), (np.sqrt(often) + 0.5).tolist())[0])
        return replace(self._ask("presence", rng, "no", self._called(index, rng), ()), counted=(1.0,))

    def _count(self, found: Found, said: frozenset[str], rng: random.Random) -> Example | None:
        best = found.best()
        there = np.flatnonzero(best >= _SCORE_FROM)
        if rng.random() < 0.05:
            absent = np.flatnonzero(best <= HARDLY)
            index = int(rng.choice(absent.tolist())) if len(absent) else 0
            asked = self._ask("count", rng, "0", self._called(index, rng), ())
            return replace(asked, counted=(1.0,)) if len(absent) and not said else None
        if not len(there):
            return None
        counts = {int(index): len(found.of(int(index), _COUNT_FROM)) for index in there}
        index = rng.choices(list(counts), [min(max(count, 1), 4) ** 0.5 for count in counts.values()])[0]
        counted = likely(found.objects[found.of(index, 0.0), 1])
        some = {str(number): share / (1 - counted[0]) for number, share in enumerate(counted) if number and share > 0}
        boxes = found.boxes(found.of(index, min(_COUNT_FROM, float(best[index]))))
        asked = self._ask("count", rng, "", self._called(index, rng), boxes)
        return replace(asked, targets=some, counted=counted)

    def _one(self, found: Found, rng: random.Random) -> int | None:
        """A slot whose class is there once, and is no person."""
        slots = [
            int(slot)
            for slot in np.flatnonzero(found.objects[:, 1] >= SURE)
            if found.objects[slot, 0] > 0 and len(found.of(int(found.objects[slot, 0]), 0.25)) == 1
        ]
        return rng.choice(slots) if slots else None

    def _coloured(self, found: Found, rng: random.Random) -> tuple[int, str] | None:
        slot = self._one(found, rng)
        if slot is None:
            return None
        left, top, right, bottom = found.objects[slot, 2:]
        index = int(found.colours[slot].argmax())
        least = _DOMINANT + (0.1 if COLOURS[index] in _NEUTRAL else -0.1)
        if (right - left) * (bottom - top) < _BIG_ENOUGH or found.colours[slot, index] < least:
            return None
        return slot, COLOURS[index]

    def _colour(self, found: Found, said: frozenset[str], rng: random.Random) -> Example | None:
        one = self._coloured(found, rng)
        if one is None or (one[1] in _NEUTRAL and rng.random() < 0.5):
            return None
        name = self._called(int(found.objects[one[0], 0]), rng)
        return self._ask("colour", rng, one[1], name, found.boxes([one[0]]))

    def _is_colour(self, found: Found, said: frozenset[str], rng: random.Random) -> Example | None:
        one = self._coloured(found, rng)
        if one is None:
            return None
        name, true = self._called(int(found.objects[one[0], 0]), rng), rng.random() < 0.5
        little = [c for i, c in enumerate(COLOURS) if found.colours[one[0], i] < 0.05]
        if not true and not little:
            return None
        colour = one[1] if true else rng.choice(little)
        return self._ask("is_colour", rng, "yes" if true else "no", name, found.boxes([one[0]]), colour=colour)

    def _group(self, found: Found, said: frozenset[str], rng: random.Random) -> Example | None:
        best = found.best()
        for group in rng.sample(list(_GROUPS), len(_GROUPS)):
            there = [i for i in _GROUPS[group] if best[i] >= SURE]
            if len(there) == 1 and sum(best[i] > 0.25 for i in _GROUPS[group]) == 1:
                name = CLASSES[there[0]]
                name = "table" if name == "dining table" else name
                return self._ask(group, rng, name, "", found.boxes(found.of(there[0], 0.3)))
        return None

    def _place(self, found: Found, said: frozenset[str], rng: random.Random) -> Example | None:
        best = found.best()
        kind, told = rng.choice((("sport", _READ["sports"]), ("room", _READ["rooms"])))
        names = {told[name] for name in told if best[CLASSES.index(name)] >= 0.5}
        return self._ask(kind, rng, names.pop()) if len(names) == 1 else None

    def _where(self, found: Found, said: frozenset[str], rng: random.Random) -> Example | None:
        slot = self._one(found, rng)
        if slot is None:
            return None
        left, top, right, bottom = found.objects[slot, 2:]
        x, y = (left + right) / 2, (top + bottom) / 2
        name, boxes = self._called(int(found.objects[slot, 0]), rng), found.boxes([slot])
        if rng.random() < 0.3 and (y < 0.3 or y > 0.7):
            return self._ask("where_high", rng, "top" if y < 0.5 else "bottom", name, boxes)
        return self._ask("where", rng, "left" if x < 0.5 else "right", name, boxes) if x < 0.35 or x > 0.65 else None

    def _next_to(self, found: Found, said: frozenset[str], rng: random.Random) -> Example | None:
        slot = self._one(found, rng)
        if slot is None:
            return None
        left, top, right, bottom = found.objects[slot, 2:]
        near = {
            int(other[0])
            for other in found.objects[found.objects[:, 1] >= 0.3]
            if other[0] != found.objects[slot, 0]
            and max(other[2] - right, left - other[4]) < 0.08
            and min(bottom, other[5]) - max(top, other[3]) > 0.3 * min(bottom - top, other[5] - other[3])
        }
        if len(near) != 1:
            return None
        return self._ask("next_to", rng, CLASSES[near.pop()], CLASSES[int(found.objects[slot, 0])], found.boxes([slot]))

    def _bigger(self, found: Found, said: frozenset[str], rng: random.Random) -> Example | None:
        slots = [s for s in {self._one(found, rng) for _ in range(4)} if s is not None]
        if len(slots) < 2:
            return None
        rng.shuffle(slots)
        sizes = [float(np.prod(found.objects[s, 4:] - found.objects[s, 2:4])) for s in slots[:2]]
        if max(sizes) < 2 * min(sizes):
            return None
        one, other = (CLASSES[int(found.objects[s, 0])] for s in slots[:2])
        answer = "yes" if sizes[0] > sizes[1] else "no"
        return self._ask("bigger", rng, answer, one, found.boxes(slots[:1]), other=other)


def likely(scores: NDArray[np.float32]) -> tuple[float, ...]:
    """How likely 0, 1, .. 10 things are there (10: or more), by the scores ``[n]`` of a class's boxes: the k-th best is
    right as often as `_RIGHT` says, and there are k only where there are k - 1."""
    ranked = np.sort(scores)[::-1][: COUNTS - 1]
    right = [float(np.interp(score, *_RIGHT[min(k, 1)])) for k, score in enumerate(ranked)]
    least = np.minimum.accumulate([1.0, *right, 0.0])
    return tuple((least[:-1] - least[1:]).tolist())


def count_together(objects: NDArray[np.float32]) -> NDArray[np.float64]:
    """From the objects of all images ``[images, slots, 6]``: in how many two classes are found."""
    there = np.zeros((len(objects), len(CLASSES)))
    image, slot = np.nonzero(objects[..., 1] >= SURE)
    there[image, objects[image, slot, 0].astype(int)] = 1
    together: NDArray[np.float64] = there.T @ there
    return together


def made_words() -> list[str]:
    """Every answer that a made question may have beside those of people."""
    names = ["table" if name == "dining table" else name for name in CLASSES]
    return [*names, *_READ["sports"].values(), *_READ["rooms"].values(), *COLOURS, *map(str, range(11)),
            "left", "right", "top", "bottom", "yes", "no"]  # fmt: skip


def made_texts() -> list[str]:
    """Texts with every word that made questions use."""
    names = [*CLASSES, *(name for names in _READ["other_names"].values() for name in names), *_GROUPS]
    return [*(w for every in _WORDINGS.values() for w in every), *names, *map(plural, names)]
