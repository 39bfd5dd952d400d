"""Measures what a model's scores are worth by kind of question, and stores the table beside its weights.

    python -m model.evaluation.reliability --data DIR [--model FOLDER] [--split dev]

The questions are people's, about photographs that were kept from training. By kind (`model.question_kinds`) the answers
are put in order of their scores and cut into groups. Neighbours are joined until a higher score has never been right
less often: isotonic regression by pooling adjacent violators (Barlow et al. 1972; for scores of classifiers, Zadrozny
and Elkan 2002). For a model that reads Chinese the same is done with the 400 questions that were translated by hand
(``chinese/``: the 300 that `model.evaluation.in_chinese` asks, and more for a colour), where the data has their
photographs.

People ask too seldom whether one of the things is there that a detector knows. So rows of their own come from the
photographs with boxes, where there are any: "is there a dog?" of all that is in each, and of as much that is not, but
often is beside it (`model.evaluation.objects`); the wordings take turns. Half of the answers are *no* so, whatever
people ask.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle, pairwise
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.evaluation.ask import REFUSED, ask_images
from model.evaluation.data import DataError, DataSet, ImageRef, Question, read_data
from model.evaluation.evaluate import evaluate
from model.evaluation.judging import accuracy, normalise
from model.evaluation.objects import ObjectQuestion, article, object_questions, plural
from model.evaluation.options import positive
from model.interface import Model, QuestionForm, QuestionKind, ReliabilityBand
from model.question_kinds import QUESTION_KINDS, question_form, question_kind
from model.reliability import ReliabilityTable

GROUP = 15
"""The least answers of a group: of fewer, the share that was right says little."""
ENOUGH = 40
"""The least answers to questions of a form: of fewer, they count among those of their kind."""
OBJECTS = Path(__file__).with_name("chinese") / "objects.tsv"
WORDINGS = {
    "en": ("Is there {a} in the photo?", "Are there any {plural}?", "Is there {a}?", "Do you see {a}?"),
    "zh": ("图里有{chinese}吗？", "有没有{chinese}？", "有{chinese}吗？", "你能看到{chinese}吗？"),
}
_GROUPS = 10


class Judged(NamedTuple):
    """A question's ``text``, the ``score`` of its best answer, and how right that was; both from 0 to 1."""

    text: str
    score: float
    right: float


def bands_of(kind: QuestionKind, scores: ArrayLike, right: ArrayLike) -> list[ReliabilityBand]:
    """The bands of one kind from its answers' ``scores`` and how ``right`` they were, both ``[n]`` from 0 to 1. They
    cover 0 to 1 without a gap; none where there is no answer."""
    score, correct = np.asarray(scores, np.float64), np.asarray(right, np.float64)
    if not len(score):
        return []
    order = np.argsort(score, kind="stable")
    cut = np.array_split(order, max(1, min(_GROUPS, len(order) // GROUP)))
    groups: list[list[int]] = []
    for part in cut:
        groups.append(part.tolist())
        while len(groups) > 1 and _are_one(groups[-2], groups[-1], score, correct):
            last = groups.pop()
            groups[-1] += last
    between = [round(float(score[below].max() + score[above].min()) / 2, 5) for below, above in pairwise(groups)]
    return [
        ReliabilityBand(kind, low, high, len(group), round(float(correct[group].mean()), 3))
        for group, (low, high) in zip(groups, pairwise([0.0, *between, 1.0]), strict=True)
    ]


def bands_of_all(
    people: Sequence[Judged], things: Sequence[Judged] = (), language: str = "en"
) -> list[ReliabilityBand]:
    """The bands of questions in one ``language``, kind by kind; behind them those of each form that was asked often
    enough to be measured by itself. ``people``: what people asked; ``things``: what was asked of photographs with
    boxes, which counts for its form alone."""
    told = Counter(question_form(each.text) for each in (*people, *things))

    def form_of(text: str) -> QuestionForm | None:
        form = question_form(text)
        return form if told[form] >= ENOUGH else None

    counted = [*people, *(each for each in things if form_of(each.text))]
    found = []
    for form in (None, *get_args(QuestionForm)):
        for kind in QUESTION_KINDS:
            group = [each for each in counted if (question_kind(each.text), form_of(each.text)) == (kind, form)]
            bands = bands_of(kind, [each.score for each in group], [each.right for each in group])
            found += [replace(band, language=language, form=form) for band in bands]
    return found


def ask_chinese(model: Model, data: DataSet) -> list[Judged]:
    """People's questions in Chinese, answered; none where the data lacks one of their photographs or questions."""
    from model.evaluation.in_chinese import read_questions  # which needs torch

    try:
        questions = read_questions(data, colours=True)
    except DataError:
        return []

    def right(question: Question, answer: str) -> float:
        return accuracy(answer, question.answers, question.source)

    return _ask(model, data, ((q.image_ref, chinese, partial(right, q)) for q, chinese in questions))


def ask_things(model: Model, data: DataSet, language: str = "en", images: int | None = None) -> list[Judged]:
    """Whether what is in the photographs with boxes (at most ``images`` of them) is there, and as much that is not."""
    records = data.objects[:images]
    if not records:
        return []
    chinese = dict(line.split("\t") for line in OBJECTS.read_text("utf-8").splitlines())
    wordings = cycle(WORDINGS[language])
    asked = []

    def right(question: ObjectQuestion, answer: str) -> float:
        return float(normalise(answer) == ("yes" if question.number else "no"))

    for record, questions in zip(records, object_questions(records), strict=True):
        for question in questions:
            name = question.name
            if question.presence and (language == "en" or name in chinese):
                text = next(wordings).format(a=article(name), plural=plural(name), chinese=chinese.get(name))
                asked.append((record.image_ref, text, partial(right, question)))
    return _ask(model, data, asked)


def _ask(model: Model, data: DataSet, asked: Iterable[tuple[ImageRef, str, Callable[[str], float]]]) -> list[Judged]:
    """Each text about its image, answered and judged by the function beside it; without those that were refused."""
    by_image: dict[ImageRef, list[tuple[str, Callable[[str], float]]]] = {}
    for ref, text, judge in asked:
        by_image.setdefault(ref, []).append((text, judge))
    texts = {ref: [text for text, _ in pairs] for ref, pairs in by_image.items()}
    found = ask_images(model, data.open_image, texts)
    return [
        Judged(text, answer.score, judge(answer.answer))
        for ref, pairs in by_image.items()
        for (text, judge), answer in zip(pairs, found[ref], strict=True)
        if answer != REFUSED
    ]


def _are_one(below: list[int], above: list[int], score: NDArray[np.float64], correct: NDArray[np.float64]) -> bool:
    """Whether higher scores were right no more often, or the same score stands on both sides."""
    return bool(correct[above].mean() <= correct[below].mean() or score[above].min() == score[below].max())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure a model's table of reliability, store it in the model's folder, and print it for its card."""
    parser = argparse.ArgumentParser(prog="python -m model.evaluation.reliability", description=main.__doc__)
    parser.add_argument("--data", required=True, type=Path, help="folder with *.jsonl and images (docs/data.md)")
    parser.add_argument("--model", default="model/weights/compact", type=Path, help="its folder (default: %(default)s)")
    parser.add_argument("--split", default="dev", help="which split to ask (default: %(default)s)")
    parser.add_argument("--images", type=positive, help="take at most so many images, chosen by a seed")
    parser.add_argument("--threads", type=positive, default=os.cpu_count(), help="CPU threads (default: %(default)s)")
    options = parser.parse_args(argv)

    from model.registry import load_model  # torch only now: --help stays quick

    try:
        model = load_model(str(options.model), threads=options.threads)
        data = read_data(options.data)
        evaluation, records = evaluate(model, data, options.split, images=options.images)
    except (DataError, ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    answered = [record for record in records if record["model"]]  # a refusal has no score
    people = [Judged(record["question"], record["score"], record["accuracy"]) for record in answered]
    bands = bands_of_all(people, ask_things(model, data, images=options.images))
    if "zh" in model.info.languages:
        things = ask_things(model, data, "zh", options.images)
        bands += bands_of_all(ask_chinese(model, data), things, "zh")
    boxes = len(data.objects[: options.images])
    revision = model.info.revision
    table = ReliabilityTable(revision, options.split, evaluation.images, len(answered), tuple(bands), boxes)
    table.save(options.model)
    sys.stdout.write("| kind of question | score | answers | of them right |\n| --- | --- | ---: | ---: |\n")
    for band in bands:
        kind = f"{band.form or band.kind}{'' if band.language == 'en' else ', in Chinese'}"
        sys.stdout.write(f"| {kind} | {band.low:.0%} to {band.high:.0%} | {band.count} | {band.right:.0%} |\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
