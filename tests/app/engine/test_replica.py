"""A worker's life: started, lost, stuck, replaced, ended; and what becomes of the requests that it held."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from app.engine.engine import Engine
from app.errors import RequestError
from app.settings import Settings
from model.interface import ItemError
from tests.app.engine.tools import busy, engine, refused, said, source, until
from tests.fakes.model import FAILING, FAILING_ONCE, LOADER


async def test_a_worker_that_cannot_be_replaced_at_once_is_replaced_later(tmp_path: Path) -> None:
    """What could be loaded before is tried again: memory may be short for a while."""
    loads = tmp_path / "loads"
    async with engine(loader=FAILING_ONCE, model=str(loads)) as (made, recorder):
        os.kill(made.replicas[0].worker.pid or 0, signal.SIGKILL)
        await until(lambda: not made.ready)
        assert await made.wait_ready()
        assert loads.read_text() == "+++"
        assert recorder.restarts == 2


async def test_a_request_that_comes_as_its_worker_dies_is_told() -> None:
    """Its image's loading is cancelled before it has begun, so that cannot tell."""
    async with engine() as (made, _):
        replica = made.replicas[0]
        coming = asyncio.create_task(made.run("answer", source(), ["what?"]))
        await asyncio.sleep(0)  # it waits for its image now, whose task has not had its turn
        assert replica.asked == 1
        replica._fail_all(RequestError("worker_failed", "It died."))
        async with asyncio.timeout(5.0):
            assert await refused(coming) == "worker_failed"


async def test_a_worker_that_dies_fails_its_requests_and_is_replaced() -> None:
    """In the middle of a batch: an error for what it held, then service again."""
    async with engine() as (made, recorder):
        image = source()
        await made.run("answer", image, ["warm?"])
        first = await busy(made, 30.0)
        waiting = asyncio.create_task(made.run("answer", image, ["waiting?"]))
        decoding = asyncio.create_task(made.run("answer", source(delay=0.3), ["decoding?"]))
        await asyncio.sleep(0.05)
        pid = made.replicas[0].worker.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        for task in (first, waiting, decoding):
            assert await refused(task) == "worker_failed"
        assert not made.ready
        assert await refused(asyncio.ensure_future(made.run("answer", image, ["now?"]))) == "not_ready"
        assert await made.wait_ready()
        assert (await made.run("answer", image, ["again?"])).cache == "miss"
        assert recorder.restarts == 1


async def test_a_worker_that_dies_while_idle_is_noticed_at_once() -> None:
    """Readiness does not wait for the next request to find out."""
    async with engine() as (made, _):
        os.kill(made.replicas[0].worker.pid or 0, signal.SIGKILL)
        await until(lambda: not made.ready, 2.0)
        assert await made.wait_ready()


async def test_a_lost_worker_that_cannot_be_stopped_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault on the way does not end the service."""
    async with engine() as (made, recorder):
        worker = made.replicas[0].worker
        stop = worker.stop

        async def fail(*, grace: float = 5.0) -> None:
            await stop(grace=grace)
            raise RuntimeError("told to")

        monkeypatch.setattr(worker, "stop", fail)
        os.kill(worker.pid or 0, signal.SIGKILL)
        await until(lambda: recorder.restarts == 1)
        await until(lambda: made.ready)
        assert made.replicas[0].worker is not worker


async def test_a_stuck_worker_is_killed() -> None:
    """A call that takes longer than allowed counts as death."""
    async with engine(worker_seconds=0.5) as (made, recorder):
        assert await refused(asyncio.ensure_future(made.run("answer", source(), ["!hang"]))) == "worker_failed"
        assert await made.wait_ready()
        assert said(await made.run("answer", source(colour=(7, 7, 7)), ["what?"])) == ["7"]
        assert recorder.restarts == 1


async def test_long_work_that_comes_on_is_let_be() -> None:
    """What counts is how long the worker says nothing, not how long it takes."""
    async with engine(worker_seconds=1.5) as (made, recorder):
        assert said(await made.run("answer", source(colour=(7, 7, 7)), ["!work 2.5"])) == ["7"]
        assert recorder.restarts == 0


async def test_work_that_nobody_waits_for_is_given_up() -> None:
    """The worker lives on and keeps its images; what waited behind goes on long before the work would have ended."""
    image = source(colour=(7, 7, 7))
    async with engine(worker_seconds=1000) as (made, recorder):
        before = said(await made.run("answer", image, ["?count"]))
        hours = asyncio.create_task(made.run("answer", image, ["!work 7200"]))
        await until(lambda: made.replicas[0].asked and not made.replicas[0].batcher.texts)
        next_one = asyncio.create_task(made.run("answer", image, ["?count"]))
        hours.cancel()
        async with asyncio.timeout(60):
            assert said(await next_one) == before
        assert recorder.restarts == 0


async def test_work_that_somebody_waits_for_goes_on() -> None:
    """Of two requests in one call, one may go."""
    image = source(colour=(7, 7, 7))
    async with engine() as (made, _):
        await made.encode(image)
        first = await busy(made, 0.3)
        gone = asyncio.create_task(made.run("answer", image, ["!work 1.5"]))
        stays = asyncio.create_task(made.run("answer", image, ["?batch"]))
        await first
        await until(lambda: made.replicas[0].batcher.texts == 0)
        gone.cancel()
        assert said(await stays) == ["2"]


async def test_more_texts_than_a_call_takes_run_in_parts() -> None:
    """In order; the index of a text at fault counts in the request."""
    async with engine(run_batch=2) as (made, _):
        assert said(await made.run("answer", source(), ["?batch"] * 5)) == ["2", "2", "2", "2", "1"]
        with pytest.raises(ItemError) as caught:
            await made.run("answer", source(), ["a", "b", "c", "xyzzy", "d"])
        assert caught.value.index == 3
        assert not made.replicas[0].asked


async def test_others_run_between_the_parts_of_a_request() -> None:
    """One with many texts does not hold the worker for all of them."""
    image, other = source(), source()
    async with engine(run_batch=1) as (made, _):
        await made.encode(other)
        many = asyncio.create_task(made.run("answer", image, ["!slow 0.3"] * 4))
        await until(lambda: made.replicas[0].asked)
        one = asyncio.create_task(made.run("answer", other, ["what?"]))
        await asyncio.wait((many, one), return_when=asyncio.FIRST_COMPLETED)
        assert not many.done()
        await asyncio.gather(many, one)


async def test_a_model_that_cannot_be_loaded() -> None:
    """Waiting for it ends, and says so."""
    made = Engine(Settings(_env_file=None, workers=1), loader=FAILING)
    made.start()
    assert not await made.wait_ready()
    assert made.failed
    assert await refused(asyncio.ensure_future(made.run("answer", source(), ["what?"]))) == "not_ready"
    await made.stop()


async def test_stop_finishes_what_was_accepted() -> None:
    """New requests are refused while the old ones are answered."""
    made = Engine(Settings(_env_file=None, workers=1), loader=LOADER)
    made.start()
    await made.wait_ready()
    first = await busy(made, 0.4)
    second = asyncio.create_task(made.run("answer", source(), ["accepted?"]))
    await asyncio.sleep(0.05)
    stopping = asyncio.create_task(made.stop())
    await asyncio.sleep(0.05)
    assert await refused(asyncio.ensure_future(made.run("answer", source(), ["new?"]))) == "shutting_down"
    assert await first
    assert await second
    await stopping
    assert not made.replicas[0].worker.alive
