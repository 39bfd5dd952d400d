"""How well a model answers in Chinese, beside how well it answers the same in English.

The questions are 300 of the ``dev`` split, translated by hand before anything was trained on Chinese (``chinese/``).
Captions are those that Chinese people wrote about photographs of the ``test`` split (Flickr8k-CN: Li et al. 2016), and
collages are those of `model.evaluation.collages` with their questions in Chinese.
"""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from model.evaluation.ask import REFUSED, ask_images
from model.evaluation.caption_matching import match_captions
from model.evaluation.collages import Collage
from model.evaluation.data import DataError, DataSet, ImageRef, Question
from model.evaluation.judging import Interval, accuracy, bootstrap
from model.evaluation.map_controls import MapMaker, variants_of
from model.evaluation.pointing import Pointing, collages_of, point, task_of
from model.interface import Model
from model.question_kinds import QUESTION_KINDS, question_kind

QUESTIONS = Path(__file__).with_name("chinese") / "dev.jsonl"
COLOURS = QUESTIONS.with_name("colours.jsonl")
_CAPTIONS = Path("chinese", "flickr8k.jsonl")

_NAMES = {
    "dog": "狗", "person": "人", "man": "男人", "woman": "女人", "boy": "男孩", "girl": "女孩", "child": "孩子",
    "baby": "婴儿", "lady": "女士", "toddler": "小孩", "bike": "自行车", "motorcycle": "摩托车", "ball": "球",
    "frisbee": "飞盘", "car": "汽车", "boat": "船", "horse": "马", "bird": "鸟", "bench": "长椅", "skateboard": "滑板",
    "surfboard": "冲浪板", "swing": "秋千", "tent": "帐篷", "snow": "雪", "pool": "泳池",
    "dogs": "狗", "people": "人", "men": "男人", "women": "女人", "boys": "男孩", "girls": "女孩", "children": "孩子",
    "babies": "婴儿", "ladies": "女士",
}  # fmt: skip
_FORMS = (
    (re.compile(r"What color is the (\w+)\?"), "{}是什么颜色的？"),
    (re.compile(r"How many (\w+) are there\?"), "有几个{}？"),
    (re.compile(r"What is the (\w+) doing\?"), "{}在做什么？"),
    (re.compile(r"Where is the (\w+)\?"), "{}在哪里？"),
)


@dataclass(frozen=True, slots=True)
class LanguageRow:
    """Accuracy on the questions of one kind, asked in English and in Chinese; ``same``: how often the answers are the
    same one."""

    kind: str
    english: Interval
    chinese: Interval
    same: float


@dataclass(frozen=True, slots=True)
class LanguageFigures:
    """All that was found; None where the data folder or the model has no such part."""

    rows: tuple[LanguageRow, ...]
    refused: int
    captions: tuple[Interval, Interval] | None
    """English and Chinese captions found among those of ten images, of the same images."""
    pointing: tuple[Pointing, Pointing] | None
    """Of the default map, with questions in English and in Chinese."""


def measure_chinese(
    model: Model, data: DataSet, *, images: int | None = None, collages: int = 0, seed: int = 0
) -> LanguageFigures:
    """Ask in both languages. ``images``: at most so many with captions; ``collages``: how many to point on.

    Raises:
        DataError: the data folder lacks a photograph or a question of the 300.
    """
    rows, refused = measure_questions(model, data)
    pointing = _pointing(model, data, collages, seed) if collages else None
    return LanguageFigures(rows, refused, _captions(model, data, images, seed), pointing)


def read_questions(data: DataSet, *, colours: bool = False) -> list[tuple[Question, str]]:
    """The questions with all their answers, and their Chinese. ``colours``: with the rest of the split's questions for
    a colour, of which the 300 hold too few to tell what a score is worth.

    Raises: `DataError` for a question that the data has not.
    """
    known = {(q.image_ref.name, q.question): q for q in data.questions if q.split == "dev"}
    found = []
    lines = [line for file in (QUESTIONS, *[COLOURS] * colours) for line in file.read_text("utf-8").splitlines()]
    for record in map(json.loads, lines):
        question = known.get((record["image"], record["question"]))
        if question is None:
            raise DataError(f"the data has no question {record['question']!r} about {record['image']}")
        found.append((question, record["chinese"]))
    return found


def measure_questions(model: Model, data: DataSet) -> tuple[tuple[LanguageRow, ...], int]:
    """Accuracies by kind of question, all kinds first, and how many Chinese questions were refused."""
    questions = read_questions(data)
    asked: dict[ImageRef, list[str]] = {}
    for question, chinese in questions:
        asked.setdefault(question.image_ref, []).extend((question.question, chinese))
    answers = ask_images(model, data.open_image, asked, progress="both languages")
    told = {ref: dict(zip(asked[ref], answers[ref], strict=True)) for ref in asked}
    kinds, english, chinese_right, same, refused = [], [], [], [], 0
    for question, chinese in questions:
        one, other = told[question.image_ref][question.question], told[question.image_ref][chinese]
        refused += other is REFUSED
        kinds.append(question_kind(question.question))
        english.append(accuracy(one.answer, question.answers, question.source))
        chinese_right.append(accuracy(other.answer, question.answers, question.source))
        same.append(one.answer == other.answer)
    rows = []
    for kind in ("all", *QUESTION_KINDS):
        which = np.array([kind in ("all", own) for own in kinds])
        if which.any():
            groups = [question.image_ref for (question, _), chosen in zip(questions, which, strict=True) if chosen]
            one, other = (bootstrap(np.array(x)[which], groups) for x in (english, chinese_right))  # type: ignore[assignment]
            rows.append(LanguageRow(kind, one, other, float(np.array(same)[which].mean())))  # type: ignore[arg-type]
    return tuple(rows), refused


def _captions(model: Model, data: DataSet, images: int | None, seed: int) -> tuple[Interval, Interval] | None:
    file = data.root / _CAPTIONS
    if "match" not in model.info.tasks or not file.is_file():
        return None
    chinese = {}
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            chinese[record["image"]] = tuple(text for text in record["people"] if text)
    own = [r for r in data.captions if r.split == "test" and len(set(chinese.get(r.image_ref.name, ()))) > 1]
    found = []
    for captions in (own, [replace(record, captions=chinese[record.image_ref.name]) for record in own]):
        part = copy.copy(data)
        part.captions = captions
        matching = match_captions(model, part, "test", images=images, seed=seed)
        if matching is None:
            return None
        found.append(matching.accuracy)
    return found[0], found[1]


def in_chinese(collage: Collage) -> Collage | None:
    """The collage with its question and word in Chinese; None where there is no word for the thing."""
    for form, chinese in _FORMS:
        match = form.fullmatch(collage.question)
        name = None if match is None else match[1]
        word = None if name is None else _NAMES.get(name) or _NAMES.get(name.removesuffix("s"))
        if word:
            return replace(collage, question=chinese.format(word), word=word)
    return None


def _pointing(model: Model, data: DataSet, count: int, seed: int) -> tuple[Pointing, Pointing] | None:
    kind = model.info.default_map_kind
    if kind is None:
        return None
    pairs = [(one, in_chinese(one)) for one in collages_of(data, "test", count, seed)]
    both = [(one, other) for one, other in pairs if other is not None]
    if not both:
        return None
    found = []
    for collages in ([one for one, _ in both], [other for _, other in both]):
        maker = MapMaker(model, task_of(model), variants_of(model.info, [kind], [None]), controls=False)
        found.append(next(iter(point(maker, data, collages, seed=seed).values())))
    return found[0], found[1]


def as_markdown(figures: LanguageFigures) -> str:
    """The figures as a table, in percent with 95% intervals."""
    head = ("questions", "n", "asked in English", "asked in Chinese", "Chinese / English", "same answer")
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in figures.rows:
        share = f"{100 * row.chinese.mean / row.english.mean:.0f}" if row.english.mean else ""
        lines.append(
            f"| {row.kind} | {row.english.count} | {row.english.percent()} | {row.chinese.percent()} | {share} "
            f"| {100 * row.same:.0f} |"
        )
    lines.append(f"\nRefused in Chinese: {figures.refused}.")
    if figures.captions:
        one, other = figures.captions
        lines.append(
            f"\nCaptions found among nine of other images (chance 10): English {one.percent()}, Chinese "
            f"{other.percent()}."
        )
    if figures.pointing:
        lines += ["\n| pointing on collages (chance 25) | English | Chinese |", "|---|---|---|"]
        for name, in_english, asked in zip(Pointing._fields, *figures.pointing, strict=True):
            if in_english is not None and asked is not None:
                lines.append(f"| {name} | {in_english.percent()} | {asked.percent()} |")
    return "\n".join(lines) + "\n"
