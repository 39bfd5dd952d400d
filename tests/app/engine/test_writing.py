"""Who joins the batch of answers that are being written, and who leaves it."""

from __future__ import annotations

import asyncio

import pytest

from app.engine.cache import Entry
from app.engine.messages import Failure, RunItem
from app.engine.stages import Stages
from app.engine.writing import DEFAULT_TOKENS, WriteJob, Writers
from app.errors import RequestError
from model.interface import Generation, Geometry, Output, Progress, Region, Written

pytestmark = pytest.mark.asyncio(loop_scope="function")
GEOMETRY = Geometry(1, 1, 1, 1, Region(0.0, 0.0, 1.0, 1.0))


def job(tokens: int = 10, *, ready: bool = True, told: list[Progress] | None = None) -> WriteJob:
    entry = Entry("a", geometry=GEOMETRY if ready else None)
    item = RunItem("a", ("",), generation=Generation(max_new_tokens=tokens))
    future: asyncio.Future[Output] = asyncio.get_running_loop().create_future()
    return WriteJob("answer", item, entry, 0.0, future, Stages(), None if told is None else told.append)


async def test_what_does_not_fit_waits_and_is_not_overtaken() -> None:
    writers = Writers(25)
    large, small, late = job(20), job(10), job(5)
    for one in (large, small, late):
        writers.put(one)
    (joined,) = writers.message(()).join
    assert joined[2] is large.item
    assert list(writers.waiting) == [small, late]
    writers.settle([(joined[0], Written((), Output(())))])
    assert [item for _, _, item in writers.message(()).join] == [small.item, late.item]


async def test_an_empty_batch_takes_a_request_of_any_size() -> None:
    writers = Writers(5)
    writers.put(job(1000))
    assert len(writers.message(()).join) == 1


async def test_an_answer_without_a_limit_counts_as_the_usual_one() -> None:
    item = RunItem("a", ("four", "seven77"))
    future: asyncio.Future[Output] = asyncio.get_running_loop().create_future()
    one = WriteJob("answer", item, Entry("a"), 0.0, future, Stages())
    assert one.tokens == 11 + 2 * DEFAULT_TOKENS


async def test_texts_wait_for_their_image() -> None:
    writers = Writers(100)
    one = job(ready=False)
    writers.put(one)
    assert not writers.busy
    assert writers.message(()).join == ()
    one.entry.geometry = GEOMETRY
    assert writers.busy
    assert len(writers.message(()).join) == 1


async def test_who_no_longer_waits_leaves() -> None:
    writers = Writers(100)
    one, two = job(), job()
    writers.put(one)
    writers.put(two)
    numbers = [number for number, _, _ in writers.message(()).join]
    one.future.cancel()
    message = writers.message(("gone",))
    assert message.leave == (numbers[0],)
    assert message.evict == ("gone",)
    assert list(writers.running.values()) == [two]


async def test_requests_are_told() -> None:
    told: list[Progress] = []
    writers = Writers(100)
    one, two = job(told=told), job()
    writers.put(one)
    writers.put(two)
    (first, _, _), (second, _, _) = writers.message(()).join
    step = Progress(0, "a", ())
    assert writers.settle([(first, Written((step,))), (second, Failure(True, "MemoryError"))]) == [two]
    assert told == [step]
    with pytest.raises(RequestError, match="too little memory"):
        two.future.result()
    output = Output(())
    assert writers.settle([(first, Written((), output))]) == [one]
    assert one.future.result() is output
    assert not writers.busy


async def test_all_fail_with_their_worker_and_some_with_their_image() -> None:
    writers = Writers(100)
    running, waiting, imageless = job(), job(ready=False), job(ready=False)
    for one in (running, waiting, imageless):
        writers.put(one)
    writers.message(())
    writers.drop(imageless.entry, RequestError("image_broken", "No image."))
    writers.drain(RequestError("worker_failed", "It died."))
    assert isinstance(imageless.future.exception(), RequestError)
    for one in (running, waiting):
        with pytest.raises(RequestError, match="died"):
            one.future.result()
