"""What a worker does with a message, without the process around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from app.engine.messages import Encode, Encoded, Failure, Run, RunItem
from app.engine.model_runner import ModelRunner
from model.interface import Item, ItemError, MapRequest, Output, Pixels, Task
from model.progress import Abandoned, listening
from tests.fakes import model as standin


class Recording(standin.StandIn):
    """Notes which texts came as one item."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, ...]] = []

    def run(self, task: Task, items: Sequence[Item]) -> list[Output | ItemError]:
        self.seen += [item.texts for item in items]
        return super().run(task, items)


def pixels(*colour: int) -> Pixels:
    """An image of one colour."""
    return standin.preprocess(Image.new("RGB", (24, 16), colour))


@pytest.fixture
def runner() -> ModelRunner:
    """It keeps the images ``dark`` and ``light``."""
    runner = ModelRunner(Recording())
    runner.handle(Encode((("dark", pixels(10, 10, 10)), ("light", pixels(200, 200, 200)))))
    return runner


def seen(runner: ModelRunner) -> list[tuple[str, ...]]:
    """What the model was given."""
    assert isinstance(runner.model, Recording)
    return runner.model.seen


def test_requests_about_one_image_are_one_item(runner: ModelRunner) -> None:
    """Their texts go side by side, each gets its own results back, and other options keep apart."""
    items = (
        RunItem("dark", ("a",)),
        RunItem("light", ("b", "c")),
        RunItem("dark", ("d", "e")),
        RunItem("dark", ("f",), maps=MapRequest()),
    )
    results = runner.handle(Run("answer", items)).results
    assert seen(runner) == [("a", "d", "e"), ("b", "c"), ("f",)]
    assert [[text.ranking[0].answer for text in result.texts] for result in results] == [
        ["10"],
        ["200", "200"],
        ["10", "10"],
        ["10"],
    ]
    assert [result.maps is not None for result in results] == [False, False, False, True]


def test_one_bad_text_is_the_error_of_its_own_request(runner: ModelRunner) -> None:
    """The others about the same image are answered; the index counts within the request."""
    items = (RunItem("dark", ("a",)), RunItem("dark", ("b", "xyzzy")), RunItem("dark", ("c",)))
    first, second, third = runner.handle(Run("answer", items)).results
    assert isinstance(first, Output)
    assert isinstance(third, Output)
    assert isinstance(second, ItemError)
    assert second.index == 1


@pytest.mark.parametrize("option", [{"candidates": ("a",)}, {"top_k": 1}, {"maps": MapRequest()}])
def test_requests_with_other_options_are_never_joined(runner: ModelRunner, option: dict[str, Any]) -> None:
    """Each would get the other's; those with the same options are joined across them."""
    plain, other = RunItem("dark", ("a",)), RunItem("dark", ("b",), **option)
    runner.handle(Run("answer", (plain, other, replace(plain, texts=("c",)), replace(other, texts=("d",)))))
    assert seen(runner) == [("a", "c"), ("b", "d")]


@pytest.mark.parametrize("place", range(5))
def test_the_index_of_a_bad_text_counts_in_its_request_after_a_split(runner: ModelRunner, place: int) -> None:
    """Texts that do not fit in memory together are run in parts."""
    texts = ["b"] * 5
    texts[place] = "xyzzy"
    texts[(place + 1) % 5] = "!memory 2"
    (error,) = runner.handle(Run("answer", (RunItem("dark", tuple(texts)),))).results
    assert isinstance(error, ItemError)
    assert (error.code, error.index, error.detail) == ("question_not_understood", place, {"unknown": 1})


def test_texts_that_were_split_come_back_in_their_order(runner: ModelRunner) -> None:
    """One output, with the maps of all."""
    texts = ("!memory 2", "a", "b", "c", "d")
    (output,) = runner.handle(Run("answer", (RunItem("dark", texts, maps=MapRequest()),))).results
    assert isinstance(output, Output)
    assert output.maps is not None
    assert [text.words[0].text for text in output.texts] == [*texts]


def test_what_is_evicted_is_forgotten_before_anything_else(runner: ModelRunner) -> None:
    """Unknown keys do no harm: their image may never have been encoded."""
    runner.handle(Run("answer", (RunItem("light", ("a",)),), ("dark", "unknown")))
    assert set(runner.images) == {"light"}
    runner.handle(Encode((("light", pixels(1, 1, 1)),), ("light",)))
    assert set(runner.images) == {"light"}
    (result,) = runner.handle(Run("answer", (RunItem("light", ("a",)),))).results
    assert result.texts[0].ranking[0].answer == "1"


def test_texts_to_compare_are_never_joined(runner: ModelRunner) -> None:
    """Scores of a match are over the texts of its request."""
    runner.handle(Run("match", (RunItem("dark", ("a", "b")), RunItem("dark", ("c",)))))
    assert seen(runner) == [("a", "b"), ("c",)]


def test_images_and_their_texts_come_together(runner: ModelRunner) -> None:
    """One message, two replies in one; the texts may also be about images that were there before."""
    run = Run("answer", (RunItem("grey", ("a",)), RunItem("dark", ("b",))))
    reply = runner.handle(Encode((("grey", pixels(90, 90, 90)),), run=run))
    assert reply.results == [Encoded(1000)]
    assert reply.run is not None
    assert [result.texts[0].ranking[0].answer for result in reply.run.results] == ["90", "10"]


def test_texts_whose_image_failed_get_its_failure(runner: ModelRunner) -> None:
    """Those beside them are answered."""
    run = Run("answer", (RunItem("poison", ("a",)), RunItem("grey", ("b",))))
    reply = runner.handle(Encode((("grey", pixels(90, 90, 90)), ("poison", pixels(255, 0, 255))), run=run))
    assert reply.results == [Encoded(1000), Failure(False, "RuntimeError")]
    assert reply.run is not None
    assert reply.run.results[0] == reply.results[1]
    assert isinstance(reply.run.results[1], Output)
    assert seen(runner) == [("b",)]


def test_images_of_different_batch_keys_never_share_a_call(runner: ModelRunner) -> None:
    """However the parent put them together."""
    light = runner.images["light"]
    assert isinstance(light, standin.Encoded)
    light.batch_key = "another"
    calls: list[int] = []
    run = runner.model.run
    runner.model.run = lambda task, items: calls.append(len(items)) or run(task, items)  # type: ignore[method-assign,func-returns-value]
    results = runner.handle(Run("answer", tuple(RunItem(key, ("a",)) for key in ("dark", "light")))).results
    assert [result.texts[0].ranking[0].answer for result in results] == ["10", "200"]
    assert calls == [1, 1]


def test_work_that_nobody_waits_for_is_not_tried_again(runner: ModelRunner) -> None:
    """Every request of the call has a failure, and the reply says why."""
    told: list[int] = []

    def stop() -> None:
        told.append(1)
        raise Abandoned

    with listening(stop):
        reply = runner.handle(Run("answer", (RunItem("dark", ("!work 60",)), RunItem("light", ("a",)))))
    assert reply.abandoned
    assert [type(result) for result in reply.results] == [Failure, Failure]
    assert told == [1]
    assert not runner.handle(Run("answer", (RunItem("light", ("a",)),))).abandoned


def test_images_that_came_with_abandoned_texts_are_kept(runner: ModelRunner) -> None:
    """They are encoded by then."""

    def stop() -> None:
        raise Abandoned

    run = Run("answer", (RunItem("new", ("!work 60",)),))
    with listening(stop):
        reply = runner.handle(Encode((("new", pixels(1, 1, 1)),), (), run))
    assert [type(result) for result in reply.results] == [Encoded]
    assert not reply.abandoned
    assert reply.run is not None
    assert reply.run.abandoned
    assert "new" in runner.images
