"""Measures what a model's scores are worth by kind of question, and stores the table beside its weights.

    python -m model.evaluation.reliability --data DIR [--model FOLDER] [--split dev]

The questions are people's, about photographs that were kept from training. By kind (`model.question_kinds`) the answers
are put in order of their scores and cut into groups. Neighbours are joined until a higher score has never been right
less often: isotonic regression by pooling adjacent violators (Barlow et al. 1972; for scores of classifiers, Zadrozny
and Elkan 2002). For a model that reads Chinese the same is done with the 400 questions that were translated by hand
(``chinese/``: the 300 that `model.evaluation.in_chinese` asks, and more for a colour), where the data has their
photographs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.evaluation.ask import REFUSED, BestAnswer, ask_images
from model.evaluation.data import DataError, DataSet, ImageRef, Question, read_data
from model.evaluation.evaluate import evaluate
from model.evaluation.judging import accuracy
from model.evaluation.options import positive
from model.interface import Model, QuestionKind, ReliabilityBand
from model.question_kinds import QUESTION_KINDS, question_kind
from model.reliability import ReliabilityTable

GROUP = 15
"""The least answers of a group: of fewer, the share that was right says little."""
_GROUPS = 10


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


def bands_by_kind(
    kinds: Sequence[QuestionKind], scores: Sequence[float], right: Sequence[float]
) -> list[ReliabilityBand]:
    """The bands of answers to questions of several ``kinds``, kind by kind; all ``[n]``, see `bands_of`."""
    told, score, correct = np.array(kinds), np.array(scores), np.array(right)
    return [band for kind in QUESTION_KINDS for band in bands_of(kind, score[told == kind], correct[told == kind])]


def chinese_bands(model: Model, data: DataSet) -> list[ReliabilityBand]:
    """The bands of questions in Chinese; none where the data lacks one of their photographs or questions."""
    from model.evaluation.in_chinese import read_questions  # which needs torch

    try:
        questions = read_questions(data, colours=True)
    except DataError:
        return []
    asked: dict[ImageRef, list[tuple[Question, str]]] = {}
    for question, chinese in questions:
        asked.setdefault(question.image_ref, []).append((question, chinese))
    texts = {ref: [chinese for _, chinese in pairs] for ref, pairs in asked.items()}
    found = ask_images(model, data.open_image, texts, progress="Chinese")
    answered: list[tuple[Question, str, BestAnswer]] = [
        (*pair, answer)
        for ref in asked
        for pair, answer in zip(asked[ref], found[ref], strict=True)
        if answer != REFUSED
    ]
    bands = bands_by_kind(
        [question_kind(chinese) for _, chinese, _ in answered],
        [best.score for *_, best in answered],
        [accuracy(best.answer, question.answers, question.source) for question, _, best in answered],
    )
    return [replace(band, language="zh") for band in bands]


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
    kinds = [question_kind(record["question"]) for record in answered]
    scores, right = ([record[name] for record in answered] for name in ("score", "accuracy"))
    bands = bands_by_kind(kinds, scores, right)
    if "zh" in model.info.languages:
        bands += chinese_bands(model, data)
    table = ReliabilityTable(model.info.revision, options.split, evaluation.images, len(answered), tuple(bands))
    table.save(options.model)
    sys.stdout.write("| kind of question | score | answers | of them right |\n| --- | --- | ---: | ---: |\n")
    for band in bands:
        kind = band.kind if band.language == "en" else f"{band.kind}, in Chinese"
        sys.stdout.write(f"| {kind} | {band.low:.0%} to {band.high:.0%} | {band.count} | {band.right:.0%} |\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
