"""Pointing: a map that is right finds its image on every collage, one that is wrong does not."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from model.evaluation.data import DataSet
from model.evaluation.pointing import pointing, quadrants
from model.interface import Item, ItemError, Map, Output, Task
from tests.fakes.colour_model import ColourModel, preprocess, square


class Mirrored(ColourModel):
    """Its maps are those of the image turned by half, so they point at the opposite image."""

    def run(self, task: Task, items: Sequence[Item]) -> list[Output | ItemError]:
        found = super().run(task, items)
        for output in found:
            assert isinstance(output, Output)
        return [
            replace(o, texts=tuple(replace(t, answer_map=_turned(t.answer_map)) for t in o.texts))
            for o in found
            if isinstance(o, Output)
        ]


def _turned(found: Map | None) -> Map | None:
    return None if found is None else Map(found.values[::-1, ::-1], found.elsewhere)


class Flat(ColourModel):
    """Its maps say nothing."""

    def run(self, task: Task, items: Sequence[Item]) -> list[Output | ItemError]:
        flat = Map(np.full((8, 8), 1 / 64, np.float32), 0.0)
        return [
            replace(o, texts=tuple(replace(t, answer_map=flat) for t in o.texts)) if isinstance(o, Output) else o
            for o in super().run(task, items)
        ]


def test_maps_that_are_right_wrong_and_empty(toy: DataSet) -> None:
    (right,) = pointing(ColourModel(), toy, "dev", collages=60).values()
    assert right.peak.count == 60
    assert right.peak.mean == right.mass.mean == 1.0
    assert right.word is not None
    assert right.word.mean == 1.0
    (wrong,) = pointing(Mirrored(), toy, "dev", collages=60).values()
    assert wrong.peak.mean == wrong.mass.mean == 0.0
    assert wrong.word is not None
    assert wrong.word.mean == 1.0, "words have maps of their own"
    (flat,) = pointing(Flat(), toy, "dev", collages=60).values()
    assert flat.peak.low < 0.25 < flat.peak.high, "ties are broken at random"
    assert flat.mass.low < 0.25 < flat.mass.high


def test_a_model_that_matches_is_given_the_caption(toy: DataSet) -> None:
    class Matches(ColourModel):
        def run(self, task: Task, items: Sequence[Item]) -> list[Output | ItemError]:
            assert task == "match"
            asked.extend(text for item in items for text in item.texts)
            return super().run("answer", items)

    asked: list[str] = []
    model = Matches()
    model.info = replace(model.info, tasks=("match",))
    (found,) = pointing(model, toy, "dev", collages=20).values()
    assert found.peak.mean == 1.0
    assert all(text.endswith(".") for text in asked), "no questions"


def test_a_model_that_captions_cannot_be_asked_to_point(toy: DataSet) -> None:
    model = ColourModel()
    model.info = replace(model.info, tasks=("caption",))
    assert pointing(model, toy, "dev", collages=20) == {}


def test_the_same_seed_the_same_collages(toy: DataSet) -> None:
    one, again, other = (pointing(Flat(), toy, "dev", collages=40, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one != other


def test_no_captions_no_collages(toy: DataSet) -> None:
    assert pointing(ColourModel(), toy, "test") == {}


def test_a_kind_that_there_is_none_of(toy: DataSet) -> None:
    with pytest.raises(ValueError, match="makes maps of kind raw"):
        pointing(ColourModel(), toy, "dev", kinds=["rollout"])


def test_every_cell_lies_in_one_quarter() -> None:
    places = quadrants(preprocess(square("red", 0)).geometry)
    assert places.shape == (8, 8)
    assert np.bincount(places.ravel()).tolist() == [16] * 4
    assert [places[0, 0], places[0, 7], places[7, 0], places[7, 7]] == [0, 1, 2, 3]
