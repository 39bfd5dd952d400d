"""Matching counts a caption that fits better than each of nine others, and nothing else."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from model.evaluation.caption_matching import match_captions
from model.evaluation.data import DataSet, read_data
from model.interface import Item, ItemError, Output, Ranked, Task, TextOutput
from tests.fakes.colour_model import ColourModel, square


def test_captions_that_cannot_be_told_apart_are_not_found(toy: DataSet) -> None:
    found = match_captions(ColourModel(), toy, "dev")
    assert found is not None
    assert (found.accuracy.count, found.images, found.sources) == (120, 60, ("toy",))
    # Where another of the ten names the same colour there is no telling; of nine others a few nearly always do.
    assert found.accuracy.mean < 0.2
    few = match_captions(ColourModel(), toy, "dev", images=12)
    assert few is not None
    assert (few.accuracy.count, few.images) == (24, 12)


def test_a_caption_that_is_told_apart_is_found(tmp_path: Path) -> None:
    """One red image among green ones: its caption is always found, and no green one's."""
    write_lines = []
    for number in range(12):
        colour = "red" if number == 0 else "green"
        square(colour, number).save(tmp_path / f"{number}.png")
        write_lines.append({"image": f"{number}.png", "captions": [f"It is {colour}."], "split": "dev"})
    (tmp_path / "toy.jsonl").write_text("".join(json.dumps(line) + "\n" for line in write_lines))
    found = match_captions(ColourModel(), read_data(tmp_path), "dev")
    assert found is not None
    assert found.accuracy.mean == pytest.approx(1 / 12)


class Marked(ColourModel):
    """Fits the texts of an item by their place; keeps what it was asked."""

    def __init__(self, scores: Sequence[float]) -> None:
        super().__init__()
        self.scores, self.asked = scores, list[Item]()

    def run(self, task: Task, items: Sequence[Item]) -> list[Output | ItemError]:
        assert task == "match"
        self.asked += items
        return [
            Output(
                tuple(
                    TextOutput((Ranked(t, s),), "candidates", None) for t, s in zip(i.texts, self.scores, strict=True)
                )
            )
            for i in items
        ]


def test_each_caption_of_an_image_meets_nine_of_other_images(toy: DataSet) -> None:
    model = Marked([0.9, 0.3, *[0.2] * 7, 0.5, 0.1])
    found = match_captions(model, toy, "dev")
    assert found is not None
    assert found.accuracy.mean == 0.5, "the first of the two captions is found, the second is not"
    assert len(model.asked) == 60
    for item in model.asked:
        assert len(item.texts) == 2 + 9
    assert len({item.texts[2:] for item in model.asked}) > 50, "drawn anew for each image"
    tie = match_captions(Marked([0.5, 0.5, *[0.5] * 9]), toy, "dev")
    assert tie is not None
    assert tie.accuracy.mean == 0.0, "a tie is no find"


def test_captions_of_an_image_line_by_line_or_all_in_one(tmp_path: Path) -> None:
    """Never is one of the nine about the image itself, and what is drawn is the same either way."""
    asked: list[list[Item]] = []
    for one_by_one in (False, True):
        folder = tmp_path / str(one_by_one)
        folder.mkdir()
        lines = []
        for number in range(12):
            square("red", number).save(folder / f"{number}.png")
            texts = [f"Red {number}, {sentence}." for sentence in ("one", "two", "three")]
            for captions in [[text] for text in texts] if one_by_one else [texts]:
                lines.append({"image": f"{number}.png", "captions": captions, "split": "dev"})
        (folder / "toy.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        model = Marked([0.5] * 12)
        found = match_captions(model, read_data(folder), "dev")
        assert found is not None
        assert (found.images, found.accuracy.count) == (12, 36)
        asked.append(model.asked)
    for item in asked[1]:
        own, others = item.texts[0].split(",")[0], [text.split(",")[0] for text in item.texts[3:]]
        assert own not in others
        assert len(set(others)) == 9
    assert [item.texts for item in asked[0]] == [item.texts for item in asked[1]]


def test_a_refused_text_counts_as_not_found(toy: DataSet) -> None:
    class Refuses(ColourModel):
        def run(self, task: Task, items: Sequence[Item]) -> list[Output | ItemError]:
            return [ItemError("question_too_long", "", 0)] * len(items)

    found = match_captions(Refuses(), toy, "dev")
    assert found is not None
    assert (found.accuracy.mean, found.accuracy.count) == (0.0, 120)


def test_no_matching_where_there_can_be_none(toy: DataSet) -> None:
    blind = ColourModel()
    blind.info = replace(blind.info, tasks=("answer",))
    assert match_captions(blind, toy, "dev") is None
    assert match_captions(ColourModel(), toy, "dev", images=9) is None, "there are no nine others"
    assert match_captions(ColourModel(), toy, "test") is None
