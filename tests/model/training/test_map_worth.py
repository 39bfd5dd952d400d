"""The tests of maps tell a map that is right from controls that are not."""

import dataclasses
import json

import pytest

from model.training.data import DataSet
from model.training.map_worth import measure_maps
from model.training.metrics import Interval
from model.training.report import Evaluation, MapRow, as_markdown, map_tables, verdict
from tests.model.training.colour_model import ColourModel


def test_a_map_that_is_right_beats_every_control(toy: DataSet) -> None:
    rows = {(row.name, row.about): row for row in measure_maps(ColourModel(), toy, "dev", boards=60)}
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
    rows = measure_maps(_Unmaskable(), toy, "dev", boards=20)
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
    names = [row.name for row in measure_maps(ColourModel(), toy, "dev", images=4, boards=4, layers=[None, (0,)])]
    assert names[:4] == ["uniform", "centre", "raw", "raw, other question"]
    assert {"raw [0]", "raw [0], other question", "raw [0], random weights"} <= set(names)


def test_maps_in_the_report(toy: DataSet) -> None:
    rows = measure_maps(ColourModel(), toy, "dev", images=6, texts=1, boards=5)
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
