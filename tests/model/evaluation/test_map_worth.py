"""The tests of maps tell a map that is right from controls that are not."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from model.evaluation.data import DataSet, ImageRef
from model.evaluation.judging import Interval
from model.evaluation.map_controls import Variant
from model.evaluation.map_worth import measure_maps, rows_of
from model.evaluation.perturbation import Curves
from model.evaluation.report import Evaluation, MapRow, as_markdown, map_tables, verdict, write_report
from tests.fakes.colour_model import ColourModel


def test_a_map_that_is_right_beats_every_control(toy: DataSet) -> None:
    rows = {(row.name, row.about): row for row in measure_maps(ColourModel(), toy, "dev", collages=60)}
    controls = ["uniform", "centre", "raw, other question", "raw, random weights"]
    assert [name for name, about in rows if about == "all"] == ["uniform", "centre", "raw", *controls[2:]]
    raw = rows["raw", "image matters"]
    assert raw.deletion is not None
    assert raw.insertion is not None
    for name in controls:
        control = rows[name, "image matters"]
        assert control.deletion is not None
        assert control.insertion is not None
        assert raw.deletion.mean < control.deletion.mean
        assert raw.insertion.mean > control.insertion.mean
        assert control.deletion_gain is None
    assert raw.deletion_gain is not None
    assert raw.insertion_gain is not None
    assert raw.deletion_gain.high < 0 < raw.insertion_gain.low
    pointing = {name: row.pointing for (name, about), row in rows.items() if about == "all"}
    assert pointing["raw"] is not None
    assert pointing["raw"].mean > 0.95
    for name in ("uniform", "centre", "raw, random weights"):
        control_pointing = pointing[name]
        assert control_pointing is not None
        assert control_pointing.mean < 0.6


def test_a_model_that_cannot_mask_is_still_asked_to_point(toy: DataSet) -> None:
    rows = measure_maps(_Unmaskable(), toy, "dev", collages=20)
    assert {row.about for row in rows} == {"all"}
    assert all(row.deletion is None and row.pointing is not None for row in rows)


class _Unmaskable:
    """The same model without `score_masked`."""

    def __init__(self) -> None:
        self._model = ColourModel()
        self.attention = self._model.attention
        self.info = self._model.info

    def encode(self, images):  # type: ignore[no-untyped-def]
        return self._model.encode(images)

    def run(self, task, items):  # type: ignore[no-untyped-def]
        return self._model.run(task, items)


def test_layers_are_rows_of_their_own(toy: DataSet) -> None:
    names = [row.name for row in measure_maps(ColourModel(), toy, "dev", images=4, collages=4, layers=[None, (0,)])]
    assert names[:4] == ["uniform", "centre", "raw", "raw, other question"]
    assert {"raw [0]", "raw [0], other question", "raw [0], random weights"} <= set(names)


def test_maps_in_the_report(toy: DataSet) -> None:
    rows = measure_maps(ColourModel(), toy, "dev", images=6, texts=1, collages=5)
    evaluation = Evaluation("m", "r", "dev", maps=rows)
    text = as_markdown(evaluation)
    assert text.startswith("Model `m` (r), split `dev`.\n\n| map | questions |")
    (changed,) = [line for line in text.splitlines() if line.startswith("| raw | all | 6 |")]
    assert changed.count("[") == 4
    (pointed,) = [line for line in text.splitlines() if line.startswith("| raw | 5 |")]
    assert pointed.count("[") == 3
    assert "\n- `raw`, all: deletion" in text
    figures = json.loads(json.dumps(dataclasses.asdict(evaluation)))["maps"]
    assert map_tables([MapRow.from_json(row) for row in figures]) == map_tables(rows)


def curves(images: Sequence[str], matters: Sequence[bool]) -> Curves:
    """Of a map that beats its controls on every question."""
    raw, count = Variant("raw"), len(images)
    deletion = {"raw": [0.2] * count} | {control: [0.5] * count for control in raw.controls}
    insertion = {"raw": [0.8] * count} | {control: [0.5] * count for control in raw.controls}
    return Curves(deletion, insertion, list(matters), [ImageRef("toy.tar", name) for name in images])


def test_one_image_proves_nothing() -> None:
    rows = rows_of([Variant("raw")], curves("aaaa", [False] * 4), {})
    row = next(row for row in rows if row.name == "raw")
    assert row.deletion_gain is not None
    assert (row.deletion_gain.known, row.deletion_apart, row.insertion_apart) == (False, None, None)
    said = "- `raw`, all: deletion not judged (too few images); insertion not judged (too few images)."
    assert verdict(row) == said
    (line,) = [line for line in map_tables(rows).splitlines() if line.startswith("| raw | all | 4 |")]
    assert line == "| raw | all | 4 | 20.0 | 80.0 | -30.0 | 30.0 |"


def test_one_image_to_which_the_image_matters_proves_nothing_in_a_larger_run() -> None:
    rows = rows_of([Variant("raw")], curves("aabb", [True, True, False, False]), {})
    over_all, few = (row for row in rows if row.name == "raw")
    assert "beats every control, intervals apart" in verdict(over_all)
    assert "image matters: deletion not judged (too few images); insertion not judged" in verdict(few)


def test_rows_without_intervals_come_back_from_the_json(tmp_path: Path) -> None:
    rows = rows_of([Variant("raw")], curves("aa", [True, True]), {})
    write_report(Evaluation("m", "r", "dev", maps=rows), tmp_path / "report.md")
    figures = json.loads((tmp_path / "report.json").read_text())["maps"]
    assert map_tables([MapRow.from_json(row) for row in figures]) == map_tables(rows)


def gained(deletion: tuple[float, float], insertion: tuple[float, float], apart: bool) -> MapRow:
    gains = [Interval(sum(ends) / 2, *ends, 9) for ends in (deletion, insertion)]
    return MapRow("raw", "all", None, None, None, *gains, deletion_apart=apart, insertion_apart=apart)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            gained((-0.2, -0.1), (0.1, 0.2), True),
            "deletion beats every control, intervals apart; insertion beats",
        ),
        (
            gained((-0.2, -0.1), (0.1, 0.2), False),
            "deletion beats every control, question by question; insertion",
        ),
        (
            gained((-0.2, 0.1), (-0.1, 0.2), False),
            "deletion does not beat every control; insertion does not",
        ),
        (
            gained((0.1, 0.2), (-0.2, -0.1), False),
            "deletion does not beat every control; insertion does not",
        ),
    ],
)
def test_the_verdict_on_a_kind(row: MapRow, said: str) -> None:
    assert said in verdict(row)
