"""The figures of an evaluation, as a Markdown table for people and JSON for programs."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from model.training.metrics import Interval


@dataclass(frozen=True, slots=True)
class Row:
    """Accuracy on the questions of one source and kind, by who answered: ``model``, and where they were asked ``twin``,
    ``shuffled`` and ``commonest``."""

    source: str
    kind: str
    accuracy: dict[str, Interval]
    minus_twin: Interval | None
    minus_shuffled: Interval | None
    minus_commonest: Interval | None
    calibration_error: float


@dataclass(frozen=True, slots=True)
class MapRow:
    """What one kind of map (or a control) is worth: see `model.training.map_worth`.

    ``about``: all questions, or only those where the image matters to the answer. The gains, of kinds only, are paired
    differences to the control that is hardest to beat; a good kind has ``deletion_gain`` below 0 and ``insertion_gain``
    above.
    """

    name: str
    about: str
    deletion: Interval | None
    insertion: Interval | None
    pointing: Interval | None
    deletion_gain: Interval | None
    insertion_gain: Interval | None


@dataclass(slots=True)
class Evaluation:
    """All that one run found. Accuracies are fractions of 1; intervals are 95%, by bootstrap over images."""

    model: str
    revision: str
    split: str
    images: int
    questions: int
    refused: int
    rows: list[Row]
    matching: Interval | None = None
    maps: list[MapRow] | None = None


_COLUMNS = {
    "model": "model",
    "twin": "question-only twin",
    "shuffled": "images shuffled",
    "commonest": "commonest answer",
}


def as_markdown(evaluation: Evaluation) -> str:
    """The tables, in percent with 95% intervals."""
    present = [column for column in _COLUMNS if column in evaluation.rows[0].accuracy]
    gains = [
        (name, label)
        for name, label in (("minus_twin", "model - twin"), ("minus_shuffled", "model - shuffled"))
        if getattr(evaluation.rows[0], name) is not None
    ]
    head = [
        "questions",
        "kind",
        "count",
        *(_COLUMNS[column] for column in present),
        *(label for _, label in gains),
        "ECE",
    ]
    body = [
        [
            row.source,
            row.kind,
            str(row.accuracy["model"].count),
            *(row.accuracy[column].percent() for column in present),
            *(getattr(row, name).percent() for name, _ in gains),
            f"{100 * row.calibration_error:.1f}",
        ]
        for row in evaluation.rows
    ]
    lines = [
        f"Model `{evaluation.model}` ({evaluation.revision}), split `{evaluation.split}`: {evaluation.questions} "
        f"questions about {evaluation.images} images, {evaluation.refused} of them refused (counted as wrong). "
        "Accuracy in percent with 95% intervals by bootstrap over images; differences by paired bootstrap.",
        "",
        *_table(head, body),
    ]
    if evaluation.matching is not None:
        lines += [
            "",
            f"Captions found among nine of other images (chance 10): {evaluation.matching.percent()} of "
            f"{evaluation.matching.count}.",
        ]
    if evaluation.maps is not None:
        lines += ["", *_map_table(evaluation.maps)]
    return "\n".join(lines) + "\n"


def _map_table(rows: list[MapRow]) -> list[str]:
    def cell(interval: Interval | None) -> str:
        return "" if interval is None else interval.percent()

    head = ["map", "questions", "count", "deletion (low is good)", "insertion (high is good)"]
    head += ["deletion - best control", "insertion - best control", "pointing (chance 25)"]
    body = []
    for row in rows:
        count = str(row.deletion.count) if row.deletion else ""
        figures = (row.deletion, row.insertion, row.deletion_gain, row.insertion_gain, row.pointing)
        body.append([row.name, row.about, count, *map(cell, figures)])
    return _table(head, body)


def _table(head: list[str], body: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *body]
    return ["| " + " | ".join(line) + " |" for line in lines]


def write_report(evaluation: Evaluation, path: Path) -> None:
    """Write the Markdown to ``path`` and the same figures as JSON beside it (``.json``)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_markdown(evaluation), encoding="utf-8")
    figures = json.dumps(dataclasses.asdict(evaluation), indent=1)
    path.with_suffix(".json").write_text(figures + "\n", encoding="utf-8")
