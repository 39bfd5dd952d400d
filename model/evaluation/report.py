"""The figures of an evaluation, as a Markdown table for people and JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.evaluation.judging import Interval
from model.evaluation.objects import ObjectFigures


@dataclass(frozen=True, slots=True)
class Row:
    """Accuracy on the questions of one source and kind, by who answered: ``model``, and where they were asked ``twin``,
    ``shuffled`` and ``commonest``. ``calibration_error`` is over the questions that were not refused, and
    ``calibration_noise`` what chance alone would make of it; ``calibration_without_chance``: see
    `model.evaluation.judging.calibration_without_chance`."""

    source: str
    kind: str
    accuracy: dict[str, Interval]
    minus_twin: Interval | None
    minus_shuffled: Interval | None
    minus_commonest: Interval | None
    calibration_error: float | None
    calibration_noise: float | None = None
    calibration_without_chance: float | None = None


@dataclass(frozen=True, slots=True)
class MapRow:
    """What one kind of map (or a control) is worth: see `model.evaluation.map_worth`.

    ``about``: all questions, or only those where the image matters to the answer. The gains, of kinds only, are paired
    differences to the control that is hardest to beat; a good kind has ``deletion_gain`` below 0 and ``insertion_gain``
    above. ``deletion_apart``: its own interval lies below that of every control, which is harder. ``pointing`` is that
    of the highest cell; the other two are in `model.evaluation.pointing.Pointing`.
    """

    name: str
    about: str
    deletion: Interval | None
    insertion: Interval | None
    pointing: Interval | None
    deletion_gain: Interval | None
    insertion_gain: Interval | None
    pointing_mass: Interval | None = None
    pointing_word: Interval | None = None
    deletion_apart: bool | None = None
    insertion_apart: bool | None = None
    control: bool = False

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> MapRow:
        """A row of a report's ``maps``, as `write_report` wrote it."""
        read: dict[str, Any] = {k: _interval(v) if isinstance(v, dict) else v for k, v in values.items()}
        return cls(**read)


@dataclass(frozen=True, slots=True)
class Matching:
    """How often a caption was found among nine of other images, and of how many ``images`` of which ``sources``."""

    accuracy: Interval
    images: int
    sources: tuple[str, ...]


@dataclass(slots=True)
class Evaluation:
    """All that one run found. Accuracies are fractions of 1; intervals are 95%, by bootstrap over images. ``rows`` is
    empty where no questions were asked."""

    model: str
    revision: str
    split: str
    images: int = 0
    questions: int = 0
    refused: int = 0
    rows: list[Row] = field(default_factory=list)
    matching: Matching | None = None
    maps: list[MapRow] | None = None
    objects: ObjectFigures | None = None


_COLUMNS = {
    "model": "model",
    "twin": "question-only twin",
    "shuffled": "images shuffled",
    "commonest": "commonest answer",
}


def as_markdown(evaluation: Evaluation) -> str:
    """The tables, in percent with 95% intervals."""
    parts = [_accuracy_table(evaluation)]
    if evaluation.matching is not None:
        found = evaluation.matching
        parts.append(
            f"Captions found among nine of other images (chance 10): {found.accuracy.percent()} of "
            f"{found.accuracy.count} captions of {found.images} images ({', '.join(found.sources)})."
        )
    if evaluation.objects is not None:
        parts.append(_object_table(evaluation.objects))
    if evaluation.maps is not None:
        parts.append(map_tables(evaluation.maps))
    return "\n\n".join(parts) + "\n"


def _object_table(found: ObjectFigures) -> str:
    word = "" if found.word_on_box is None else found.word_on_box.percent()
    head = [f"{found.images} photographs with boxes", "asked", "right", "always *yes*, *1*, the centre"]
    body = [
        ["is there a ..?", str(found.balanced.count), found.balanced.percent(), "50.0"],
        ["of it: is there, and said so", str(found.there.count), found.there.percent(), "100.0"],
        ["of it: is not, and said so", str(found.absent.count), found.absent.percent(), "0.0"],
        ["how many .., of what is there", str(found.counts.count), found.counts.percent(), found.always_one.percent()],
        ["the word's map has its peak on it", str(found.there.count), word, found.centre_on_box.percent()],
    ]
    return "\n".join(_table(head, body))


def _accuracy_table(evaluation: Evaluation) -> str:
    head_line = f"Model `{evaluation.model}` ({evaluation.revision}), split `{evaluation.split}`"
    if not evaluation.rows:
        return f"{head_line}."
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
        "ECE by chance",
        "RMS gap without chance",
    ]
    body = [
        [
            row.source,
            row.kind,
            str(row.accuracy["model"].count),
            *(row.accuracy[column].percent() for column in present),
            *(getattr(row, name).percent() for name, _ in gains),
            *("" if x is None else f"{100 * x:.1f}" for x in _calibration(row)),
        ]
        for row in evaluation.rows
    ]
    lines = [
        f"{head_line}: {evaluation.questions} questions about {evaluation.images} images, {evaluation.refused} of them "
        "refused (counted as wrong). Accuracy in percent with 95% intervals by bootstrap over images; differences by "
        "paired bootstrap.",
        "",
        *_table(head, body),
    ]
    return "\n".join(lines)


def _calibration(row: Row) -> tuple[float | None, ...]:
    return row.calibration_error, row.calibration_noise, row.calibration_without_chance


def map_tables(rows: Sequence[MapRow]) -> str:
    """What the maps are worth as Markdown: deletion and insertion with a verdict on each kind, and pointing."""

    def cell(interval: Interval | None) -> str:
        return "" if interval is None else interval.percent()

    parts = []
    changed = [row for row in rows if row.deletion is not None]
    if changed:
        head = ["map", "questions", "count", "deletion (low is good)", "insertion (high is good)"]
        head += ["deletion - best control", "insertion - best control"]
        body = []
        for row in changed:
            figures = (row.deletion, row.insertion, row.deletion_gain, row.insertion_gain)
            body.append([row.name, row.about, str(row.deletion.count if row.deletion else 0), *map(cell, figures)])
        parts += ["\n".join(_table(head, body)), "\n".join(verdict(row) for row in changed if row.deletion_gain)]
    pointed = [row for row in rows if row.pointing is not None]
    if pointed:
        head = ["map", "collages", "highest cell in the right image (chance 25)", "heaviest quarter is the right image"]
        head += ["highest cell of the thing's word"]
        body = [
            [row.name, str(row.pointing.count if row.pointing else 0)]
            + [cell(found) for found in (row.pointing, row.pointing_mass, row.pointing_word)]
            for row in pointed
        ]
        parts.append("\n".join(_table(head, body)))
    return "\n\n".join(parts) if parts else "This model makes no maps that could be measured on this data."


def map_summary(rows: Sequence[MapRow]) -> str:
    """The same in short: one line a kind, and a last one with the best control of each test."""
    rows = [row for row in rows if row.about == "all"]
    controls = [row for row in rows if row.control]

    def best(name: str, low_is_good: bool) -> str:
        found = [(getattr(row, name), row.name) for row in controls if getattr(row, name) is not None]
        if not found:
            return ""
        interval, of = min(found, key=lambda pair: pair[0].mean if low_is_good else -pair[0].mean)
        return f"{interval.percent()} ({of})"

    tests = (("deletion", True), ("insertion", False), ("pointing", False))
    body = [
        [f"`{row.name}`", *("" if found is None else found.percent() for found in (getattr(row, t) for t, _ in tests))]
        for row in rows
        if not row.control
    ]
    body.append(["best control", *(best(*test) for test in tests)])
    return "\n".join(
        _table(["map", "deletion (low is good)", "insertion (high is good)", "pointing (chance 25)"], body)
    )


def verdict(row: MapRow) -> str:
    """One line on a kind: which tests it passes against every control."""

    def passed(gain: Interval | None, apart: bool | None, low_is_good: bool) -> str:
        if gain is None:
            return "not measured"
        if not gain.known:
            return "not judged (too few images)"
        if not (gain.high < 0 if low_is_good else gain.low > 0):
            return "does not beat every control"
        return "beats every control, intervals apart" if apart else "beats every control, question by question"

    deletion = passed(row.deletion_gain, row.deletion_apart, True)
    insertion = passed(row.insertion_gain, row.insertion_apart, False)
    return f"- `{row.name}`, {row.about}: deletion {deletion}; insertion {insertion}."


def _table(head: list[str], body: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *body]
    return ["| " + " | ".join(line) + " |" for line in lines]


def write_report(evaluation: Evaluation, path: Path) -> None:
    """Write the Markdown to ``path`` and the same figures as JSON beside it (``.json``): null for the ends of an
    interval that there is not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_markdown(evaluation), encoding="utf-8")
    figures = json.dumps(_plain(dataclasses.asdict(evaluation)), indent=1, allow_nan=False)
    path.with_suffix(".json").write_text(figures + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """The same with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _interval(values: dict[str, Any]) -> Interval:
    read: dict[str, Any] = {key: math.nan if value is None else value for key, value in values.items()}
    return Interval(**read)
