"""What waits: which jobs may share a call, and what a request is told."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from app.engine.cache import Entry
from app.engine.jobs import Batch, EncodeJob, RunJob
from app.engine.messages import Encode, Encoded, Failure, Run, RunItem
from app.errors import RequestError
from model.interface import Geometry, ItemError, MapKind, MapRequest, Pixels, Region, Task

PIXELS = Pixels(np.zeros((1, 1, 3), np.uint8), Geometry(1, 1, 1, 1, Region(0.0, 0.0, 1.0, 1.0)))


def encoding(key: str = "a") -> EncodeJob:
    """An image to encode."""
    return EncodeJob(Entry(key), PIXELS, 0.0, asyncio.get_running_loop().create_future())


def running(*texts: str, key: str = "a", task: Task = "answer", maps: MapRequest | None = None) -> RunJob:
    """Texts to run."""
    item = RunItem(key, texts or ("what?",), maps=maps)
    return RunJob(task, item, Entry(key), 0.0, asyncio.get_running_loop().create_future())


async def test_jobs_of_one_task_and_one_number_of_passes_may_share_a_call() -> None:
    """Maps of attention come with the answer; gradients and rollouts need another pass."""
    kinds: list[MapKind] = ["gradient", "rollout"]
    assert running().group == running(maps=MapRequest("raw")).group
    assert running().group != running(task="match").group
    groups = {running(maps=MapRequest(kind)).group for kind in kinds} | {running().group}
    assert len(groups) == 3


async def test_buckets_double_from_64_characters() -> None:
    """By the longest text of a request."""
    lengths = (1, 63, 64, 127, 128, 1000)
    assert [running("x" * length).bucket for length in lengths] == [6, 6, 7, 7, 8, 10]
    assert running("x", "x" * 200, "x").bucket == running("x" * 200).bucket


@pytest.mark.parametrize(
    ("failure", "code"),
    [(Failure(True, "MemoryError"), "overloaded"), (Failure(False, "ValueError"), "internal_error")],
)
async def test_a_failure_of_the_model_is_an_error_of_the_request(failure: Failure, code: str) -> None:
    """Short memory will pass; anything else is a fault. What was raised is not told."""
    job = running()
    job.settle(failure)
    error = job.future.exception()
    assert isinstance(error, RequestError)
    assert error.code == code
    assert failure.message not in error.message


async def test_results_and_errors_of_texts_are_handed_over() -> None:
    """As they are."""
    job, other = encoding(), running()
    job.settle(Encoded(7))
    assert job.future.result() == Encoded(7)
    error = ItemError("question_not_understood", "Unknown words.", 0, None)
    other.settle(error)
    assert other.future.exception() is error


async def test_a_request_that_left_is_not_told() -> None:
    """Its future is done: a second result would raise."""
    for job in (running(), encoding()):
        job.future.cancel()
        job.settle(Encoded(7))
        job.settle(Failure(False, "ValueError"))
        job.fail(RequestError("internal_error", "Too late."))
        assert job.future.cancelled()


async def test_one_error_is_an_exception_of_its_own_in_each_request() -> None:
    """With the same figures."""
    error = RequestError("overloaded", "Full.", param="image", detail={"n": 1}, retry_after=3.0)
    jobs = [running(), running()]
    for job in jobs:
        job.fail(error)
    told = [job.future.exception() for job in jobs]
    assert len({id(error), *map(id, told)}) == 3
    for each in told:
        assert isinstance(each, RequestError)
        assert vars(each) == vars(error)


async def test_a_batch_is_one_message() -> None:
    """Images with their keys, then texts; what is to be forgotten goes first."""
    image, text = encoding("a"), running("what?", key="b")
    assert Batch([], [text]).message(("x",)) == Run("answer", (text.item,), ("x",))
    assert Batch([image]).message(("x",)) == Encode((("a", PIXELS),), ("x",))
    assert Batch([image], [text]).message(("x",)) == Encode((("a", PIXELS),), ("x",), Run("answer", (text.item,)))
    assert Batch([image], [text]).jobs == [image, text]
