"""The table of what scores are worth: made by the command, stored beside the weights, used with these alone."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.compact.model import load, tiny
from model.evaluation import in_chinese
from model.evaluation.data import DataSet
from model.evaluation.reliability import ENOUGH, GROUP, Judged, ask_chinese, bands_of, bands_of_all, main
from model.interface import ReliabilityBand
from model.reliability import RELIABILITY, find_band, load_table
from tests.fakes.colour_model import write_toy_data


def test_bands_cover_all_scores_and_never_fall() -> None:
    random = np.random.default_rng(0)
    scores = random.random(400)
    right = (random.random(400) < scores**2).astype(float)  # too sure of itself everywhere
    bands = bands_of("count", scores, right)
    assert [band.low for band in bands] == [0.0, *(band.high for band in bands[:-1])]
    assert bands[-1].high == 1.0
    assert sum(band.count for band in bands) == 400
    assert min(band.count for band in bands) >= GROUP
    shares = [band.right for band in bands]
    assert shares == sorted(shares)
    assert len(bands) >= 3
    for band in bands:
        held = (scores >= band.low) & (scores < band.high)
        assert band.right == pytest.approx(right[held].mean(), abs=0.02)


def test_few_answers_are_one_band_and_none_is_none() -> None:
    assert bands_of("reading", [0.9, 0.2, 0.4], [1, 0, 0]) == [ReliabilityBand("reading", 0.0, 1.0, 3, 0.333)]
    assert bands_of("reading", [], []) == []
    assert len(bands_of("yes/no", [0.5] * 100, [0, 1] * 50)) == 1, "equal scores cannot be told apart"
    (band,) = bands_of("yes/no", [0.5] * 50, [0] * 25 + [1] * 25)
    assert band.right == 0.5


def test_the_band_of_a_score() -> None:
    bands = [ReliabilityBand("count", 0.0, 0.4, 20, 0.1), ReliabilityBand("count", 0.4, 1.0, 30, 0.6)]
    assert [find_band(bands, "count", score) for score in (0.0, 0.3999, 0.4, 1.0)] == [bands[i] for i in (0, 0, 1, 1)]
    assert find_band(bands, "colour", 0.5) is None
    chinese = ReliabilityBand("count", 0.0, 1.0, 20, 0.3, "zh")
    assert find_band([*bands, chinese], "count", 0.5, "zh") == chinese
    assert find_band([*bands, chinese], "count", 0.5) == bands[1]
    assert find_band(bands, "count", 0.5, "zh") is None


def test_the_band_of_a_form_that_was_measured_by_itself() -> None:
    kind = ReliabilityBand("yes/no", 0.0, 1.0, 90, 0.6)
    form = ReliabilityBand("yes/no", 0.0, 1.0, 80, 0.9, form="is there")
    assert find_band([kind, form], "yes/no", 0.5) == kind
    assert find_band([kind, form], "yes/no", 0.5, form="is there") == form
    assert find_band([kind], "yes/no", 0.5, form="is there") == kind, "it has no rows of its own"
    assert find_band([kind, form], "yes/no", 0.5, "zh", "is there") is None


def test_a_form_has_bands_of_its_own_where_it_was_asked_often_enough() -> None:
    people = [Judged("Is it red?", 0.6, 0.5)] * 20 + [Judged("Is there a cat?", 0.6, 1.0)] * 3
    people += [Judged("Is there a church?", 0.6, 0.0)] * 20
    things = [Judged("Is there a dog?", 0.6, 1.0)] * (ENOUGH - 3) + [Judged("Is there a sneaker?", 0.6, 0.0)] * 50
    assert bands_of_all(people, things) == [
        ReliabilityBand("yes/no", 0.0, 1.0, 40, 0.25),
        ReliabilityBand("yes/no", 0.0, 1.0, ENOUGH, 1.0, form="is there"),
    ]
    (one,) = bands_of_all(people, things[1 : ENOUGH - 3], "zh")
    assert (one.count, one.right, one.language, one.form) == (43, 0.302, "zh", None), "things are not what people ask"


def test_bands_of_questions_in_chinese(toy: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [question for question in toy.questions if question.split == "dev"][:8]
    rows = [{"image": q.image_ref.name, "question": q.question, "chinese": q.question} for q in asked]
    path, colours = tmp_path / "dev.jsonl", tmp_path / "colours.jsonl"
    for file, part in ((path, rows[:5]), (colours, rows[5:])):
        file.write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    monkeypatch.setattr(in_chinese, "QUESTIONS", path)
    monkeypatch.setattr(in_chinese, "COLOURS", colours)
    judged = ask_chinese(tiny(), toy)
    assert sorted(each.text for each in judged) == sorted(q.question for q in asked)
    assert all(0 < each.score <= 1 and each.right in (0, 1) for each in judged)
    path.write_text(json.dumps(rows[0] | {"image": "nowhere.jpg"}) + "\n", encoding="utf-8")
    assert ask_chinese(tiny(), toy) == []


def test_the_command_stores_a_table_that_belongs_to_its_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder, data = tmp_path / "model", tmp_path / "data"
    data.mkdir()
    tiny().save(folder)
    write_toy_data(data)
    Image.new("RGB", (64, 64), (90, 20, 20)).save(data / "a.png")
    with (data / "boxes.jsonl").open("w") as file:
        for number in range(ENOUGH):
            found = [{"name": ("dog", "hot dog")[number % 2], "box": [1, 1, 5, 5]}]
            file.write(json.dumps({"image": "a.png", "width": 64, "height": 64, "objects": found}) + "\n")
    assert load(folder).info.reliability == ()
    assert main(["--data", str(data), "--model", str(folder), "--images", "20", "--threads", "1"]) == 0
    table = load_table(folder)
    assert table is not None
    plain = [band for band in table.bands if band.form is None]
    assert (table.split, table.images, table.questions) == ("dev", 20, sum(band.count for band in plain))
    things = [band for band in table.bands if band.form == "is there"]
    assert (table.boxes, sum(band.count for band in things)) == (20, 40), "half of them are not there"
    assert {band.kind for band in table.bands} >= {"yes/no", "colour"}
    printed = capsys.readouterr().out
    assert f"| {table.bands[0].count} | {table.bands[0].right:.0%} |" in printed
    assert printed.count("| is there | ") == len(things)
    model = load(folder)
    assert model.info.reliability == table.bands
    assert model.info.revision.partition("+")[0] == table.revision.partition("+")[0]

    values = json.loads((folder / RELIABILITY).read_text())
    (folder / RELIABILITY).write_text(json.dumps(values | {"revision": "sha256:other"}))
    with caplog.at_level(logging.WARNING):
        assert load(folder).info.reliability == ()
    assert "measured on other weights (sha256:other)" in caplog.text
    odd = json.dumps(values | {"bands": [values["bands"][0] | {"form": "what if"}]})
    (folder / RELIABILITY).write_text(odd)
    with pytest.raises(ValueError, match="no known kind or form"):
        load(folder)
    (folder / RELIABILITY).write_text('{"revision": "sha256:other"}')
    with pytest.raises(ValueError, match=RELIABILITY):
        load(folder)
