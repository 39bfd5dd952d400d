"""Accuracy of a model on a data set's questions, beside what it must beat; behind ``crosslook-server eval``.

The model is asked through `model.interface.Model`, exactly as the service asks it. Its accuracy stands beside that of a
question-only twin (trained the same way, blind to its image), of the commonest train answer of the same source and
kind, and of the model itself with the images shuffled among the questions.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from model.evaluation.ask import REFUSED, BestAnswer, NotBlind, ask_blind, ask_images
from model.evaluation.caption_matching import match_captions
from model.evaluation.collages import COLLAGES
from model.evaluation.data import DataError, DataSet, ImageRef, Question, read_data
from model.evaluation.judging import (
    KINDS,
    Interval,
    accuracy,
    bootstrap,
    calibration_error,
    calibration_noise,
    calibration_without_chance,
    majority,
    paired_bootstrap,
)
from model.evaluation.objects import measure_objects
from model.evaluation.options import positive
from model.evaluation.report import Evaluation, Row, as_markdown, write_report
from model.interface import MapKind, Model
from model.question_kinds import question_kind


def exchange_images(refs: Sequence[ImageRef], seed: int) -> dict[ImageRef, ImageRef]:
    """Another image for each image, every one used once: a random cycle through all of them."""
    order = np.random.default_rng(seed).permutation(len(refs))
    return {refs[i]: refs[j] for i, j in zip(order, np.roll(order, 1), strict=True)}


def commonest_answers(train: Iterable[Question]) -> Callable[[Question], str]:
    """What always to say: the commonest train answer of a question's source and kind, or of its kind alone where its
    source has none."""
    counts: dict[tuple[str | None, str], Counter[str]] = {}
    for question in train:
        answer = majority(question.answers)
        for source in (question.source, None):
            counts.setdefault((source, question.kind), Counter())[answer] += 1
    best = {key: counter.most_common(1)[0][0] for key, counter in counts.items()}
    return lambda question: best.get((question.source, question.kind), best.get((None, question.kind), ""))


def evaluate(
    model: Model,
    data: DataSet,
    split: str,
    *,
    twin: Model | None = None,
    shuffle: bool = False,
    images: int | None = None,
    seed: int = 0,
) -> tuple[Evaluation, list[dict[str, Any]]]:
    """Ask a model all questions of a split (at most ``images`` images of it) and judge its answers.

    Returns the figures, and one record per question with its answers.

    Raises:
        DataError: the split holds no question.
        NotBlind: the twin looks at its image.
    """
    everything = data.questions + [statement.as_question() for statement in data.statements]
    train = [question for question in everything if question.split == "train"]
    by_image: dict[ImageRef, list[Question]] = {}
    for question in everything:
        if question.split == split:
            by_image.setdefault(question.image_ref, []).append(question)
    if not by_image:
        raise DataError(f"no question of the split {split!r}; there are {sorted({q.split for q in everything})}")
    refs = list(by_image)
    if images is not None and images < len(refs):
        chosen = np.random.default_rng(seed).choice(len(refs), images, replace=False)
        refs = [refs[i] for i in sorted(chosen)]
    if shuffle and len(refs) < 2:
        raise DataError("shuffling needs at least two images")

    questions = [question for ref in refs for question in by_image[ref]]
    own = {ref: [question.question for question in by_image[ref]] for ref in refs}
    donor_of = exchange_images(refs, seed) if shuffle else {}
    asked = {ref: list(own[ref]) for ref in refs}
    for ref, donor in donor_of.items():
        asked[donor] += own[ref]  # behind the donor's own questions
    answers = ask_images(model, data.open_image, asked)
    columns = {"model": [answered for ref in refs for answered in answers[ref][: len(own[ref])]]}
    if shuffle:
        columns["shuffled"] = [
            answered for ref in refs for answered in answers[donor_of[ref]][len(own[donor_of[ref]]) :]
        ]
    if twin is not None:
        columns["twin"] = ask_blind(twin, [question.question for question in questions], data.open_image(refs[0]))
    if train:  # without any there is no commonest answer, and no column that says 0
        commonest = commonest_answers(train)
        columns["commonest"] = [BestAnswer(commonest(question), 1.0) for question in questions]

    scores = {
        name: np.array([_accuracy(a, q) for a, q in zip(answered, questions, strict=True)])
        for name, answered in columns.items()
    }
    confidences = np.array([np.nan if a is REFUSED else a.score for a in columns["model"]])
    rows = [_row(name, kind, which, questions, scores, confidences) for name, kind, which in _groups(questions)]
    evaluation = Evaluation(
        model=model.info.id,
        revision=model.info.revision,
        split=split,
        images=len(refs),
        questions=len(questions),
        refused=sum(answered is REFUSED for answered in columns["model"]),
        rows=rows,
    )
    records = [
        {
            "image": q.image_ref.name,
            "question": q.question,
            "answers": list(q.answers),
            "source": q.source,
            "kind": q.kind,
        }
        | {name: columns[name][i].answer for name in columns}
        | {"score": round(columns["model"][i].score, 4), "accuracy": round(float(scores["model"][i]), 4)}
        for i, q in enumerate(questions)
    ]
    return evaluation, records


def _accuracy(answered: BestAnswer, question: Question) -> float:
    return 0.0 if answered is REFUSED else accuracy(answered.answer, question.answers, question.source)


def _groups(questions: Sequence[Question]) -> list[tuple[str, str, NDArray[np.bool_]]]:
    """The rows of the table: (name, kind or "all", which questions). VQA's two versions together come first, with rows
    for colour and reading besides, which are told by the wording."""
    sources = np.array([question.source for question in questions])
    kinds = np.array([question.kind for question in questions])
    wordings = np.array([question_kind(question.question) for question in questions])
    names = sorted(set(sources.tolist()))
    vqa = [name for name in names if name.startswith("vqa-")]
    parts = [(" + ".join(vqa), np.isin(sources, vqa))] if len(vqa) > 1 else []
    parts += [(name, sources == name) for name in names]
    groups = []
    for name, which in parts:
        groups.append((name, "all", which))
        groups += [(name, kind, which & (kinds == kind)) for kind in KINDS]
        if "vqa" in name:
            groups += [(name, kind, which & (wordings == kind)) for kind in ("colour", "reading")]
    # A kind that is the whole source says nothing new.
    return [
        (name, kind, which)
        for name, kind, which in groups
        if which.any() and (kind == "all" or which.sum() < dict(parts)[name].sum())
    ]


def _row(
    name: str,
    kind: str,
    which: NDArray[np.bool_],
    questions: Sequence[Question],
    scores: dict[str, NDArray[np.float64]],
    confidences: NDArray[np.float64],
) -> Row:
    images = [question.image_ref for question, chosen in zip(questions, which, strict=True) if chosen]
    answered = which & ~np.isnan(confidences)  # a refusal claims nothing, so it is no sign of being well calibrated
    calibration = noise = beyond = None
    if answered.any():
        calibration = calibration_error(confidences[answered], scores["model"][answered])
        noise = calibration_noise(confidences[answered])
    if answered.sum() > 1:
        beyond = calibration_without_chance(confidences[answered], scores["model"][answered])
    right = {column: score[which] for column, score in scores.items()}

    def minus(other: str) -> Interval | None:
        return paired_bootstrap(right["model"], right[other], images) if other in right else None

    return Row(
        source=name,
        kind=kind,
        accuracy={column: bootstrap(score, images) for column, score in right.items()},
        minus_twin=minus("twin"),
        minus_shuffled=minus("shuffled"),
        minus_commonest=minus("commonest"),
        calibration_error=calibration,
        calibration_noise=noise,
        calibration_without_chance=beyond,
    )


class _Part(TypedDict):
    images: int | None
    seed: int


def _kinds(text: str) -> list[MapKind]:
    return text.split(",")  # type: ignore[return-value]  # the model says which there are


def read_layers(text: str, every: Sequence[int]) -> list[tuple[int, ...] | None]:
    """What ``--layers`` names: ``default``, ``each``, or numbers divided by commas.

    Raises:
        ValueError: none of these.
    """
    if text == "default":
        return [None]
    if text == "each":
        return [None, *((layer,) for layer in every)]
    try:
        return [tuple(sorted({int(part) for part in text.split(",")}))]
    except ValueError:
        raise ValueError(f"--layers is a list of numbers such as 0,2, or `each`, not {text!r}") from None


def main(argv: Sequence[str] | None = None) -> int:
    """``crosslook-server eval``: print the table; with ``--out FILE.md`` also write it, and FILE.json beside it."""
    parser = argparse.ArgumentParser(prog="crosslook-server eval", description=main.__doc__)
    parser.add_argument("--data", required=True, type=Path, help="folder with *.jsonl and images (docs/data.md)")
    parser.add_argument("--split", default="dev", help="which split to ask (default: %(default)s)")
    parser.add_argument("--model", default="compact", help="a model's name or its folder (default: %(default)s)")
    parser.add_argument("--twin", type=Path, help="folder of the question-only twin")
    parser.add_argument("--shuffle", action="store_true", help="also ask with the images shuffled among the questions")
    parser.add_argument("--matching", action="store_true", help="also find each caption among nine of other images")
    parser.add_argument("--maps", action="store_true", help="also measure what the attention maps are worth")
    parser.add_argument("--kinds", type=_kinds, metavar="KIND,..", help="measure these kinds of maps (default: all)")
    parser.add_argument(
        "--layers",
        default="default",
        metavar="N,.. | each",
        help="measure maps of these layers, counted from 0; each: the model's own choice, and every layer alone",
    )
    parser.add_argument("--texts", type=positive, help="for maps: at most so many texts about an image (default: 4)")
    parser.add_argument(
        "--collages", "--boards", type=int, default=COLLAGES, help="collages to point on (default: %(default)s)"
    )
    parser.add_argument("--language", choices=["zh"], help="ask in Chinese instead, beside the same in English")
    parser.add_argument("--no-answers", action="store_true", help="leave the table of accuracies out")
    parser.add_argument("--images", type=positive, help="take at most so many images for each part, chosen by the seed")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--dtype", default="auto", help="auto or float32, see CROSSLOOK_DTYPE (default: %(default)s)")
    parser.add_argument("--threads", type=positive, default=os.cpu_count(), help="CPU threads (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the tables to this .md file, and a .json beside it")
    parser.add_argument("--answers", type=Path, help="write every question with its answers to this .jsonl file")
    options = parser.parse_args(argv)

    from model.registry import load_model  # torch only now: --help stays quick

    def load(name: str) -> Model:
        try:
            return load_model(name, device=options.device, threads=options.threads, dtype=options.dtype)
        except (ValueError, OSError) as error:
            parser.exit(2, f"{parser.prog}: {error}\n")

    try:
        data = read_data(options.data)
        model = load(options.model)
        twin = load(str(options.twin)) if options.twin else None
        for path in filter(None, (options.out, options.answers)):
            if path.is_dir():
                raise ValueError(f"{path} is a folder; name a file")
            path.parent.mkdir(parents=True, exist_ok=True)  # now: a run of an hour must not end without its figures
        part: _Part = {"images": options.images, "seed": options.seed}
        if options.language:
            from model.evaluation import in_chinese

            figures = in_chinese.measure_chinese(model, data, collages=options.collages, **part)
            table = f"Model `{model.info.id}` ({model.info.revision})\n\n{in_chinese.as_markdown(figures)}"
            sys.stdout.write(table)
            if options.out:
                options.out.write_text(table, encoding="utf-8")
            return 0
        records: list[dict[str, Any]] = []
        evaluation = Evaluation(model.info.id, model.info.revision, options.split)
        if "answer" in model.info.tasks and not options.no_answers:
            evaluation, records = evaluate(model, data, options.split, twin=twin, shuffle=options.shuffle, **part)
            if data.objects:
                evaluation.objects = measure_objects(model, data, **part)
        if options.matching:
            evaluation.matching = match_captions(model, data, options.split, **part)
        if options.maps:
            from model.evaluation.map_worth import measure_maps

            layers = read_layers(options.layers, model.info.layers)
            chosen: dict[str, Any] = {"kinds": options.kinds, "layers": layers}
            chosen |= {"collages": options.collages} | ({} if options.texts is None else {"texts": options.texts})
            evaluation.maps = measure_maps(model, data, options.split, **chosen, **part)
    except (DataError, NotBlind, ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    sys.stdout.write(as_markdown(evaluation))
    if options.out:
        write_report(evaluation, options.out)
    if options.answers:
        options.answers.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return 0
