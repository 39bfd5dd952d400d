"""What goes to the worker together, and what becomes of a batch in which something fails."""

from __future__ import annotations

import asyncio

import pytest

from app.engine.engine import Engine
from model.interface import ItemError
from tests.app.engine.tools import Recorder, busy, engine, refused, said, source

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_busy_worker_fills_its_batches(ready: tuple[Engine, Recorder]) -> None:
    """What arrives while the worker is busy runs together, up to the limits, encodes and runs apart."""
    made, recorder = ready
    first = await busy(made, 0.3)
    await asyncio.gather(first, *(made.run("answer", source(), ["?batch"]) for _ in range(8)))
    assert recorder.sizes("encode") == [1, 4, 4]
    assert recorder.sizes("run")[1:] == [4, 4]


async def test_an_idle_server_adds_no_wait(ready: tuple[Engine, Recorder]) -> None:
    """A lone request is sent at once, for the reason that the worker was free."""
    made, recorder = ready
    result = await made.run("answer", source(), ["what?"])
    assert recorder.batches == [("encode", "free", 1), ("run", "free", 1)]
    assert result.stages.spans["run_wait"][1] < 0.05


async def test_questions_about_one_image_run_together(ready: tuple[Engine, Recorder]) -> None:
    """Requests for the same image share a call before others do; a request is never split."""
    made, recorder = ready
    image, other = source(), source()
    await made.run("answer", image, ["warm?"])
    await made.run("answer", other, ["warm?"])
    recorder.batches.clear()
    first = await busy(made, 0.3)
    asks = [made.run("answer", image, ["?batch"] * 3)]
    asks += [made.run("answer", other, ["?batch"]) for _ in range(3)]
    asks += [made.run("answer", image, ["?batch"] * 3), made.run("answer", image, ["?batch"] * 3)]
    results = await asyncio.gather(*asks)
    await first
    assert [said(result) for result in results] == [["8"] * 3, ["8"], ["8"], ["4"], ["8"] * 3, ["4"] * 3]


async def test_one_poisoned_item_does_not_fail_its_batch(ready: tuple[Engine, Recorder]) -> None:
    """An image and a question that make the model raise get their error; those beside them are answered."""
    made, recorder = ready
    first = await busy(made, 0.3)
    tasks = [
        asyncio.create_task(made.run("answer", source(), ["fine?"])),
        asyncio.create_task(made.run("answer", source(colour=(255, 0, 255)), ["fine?"])),
        asyncio.create_task(made.run("answer", source(), ["!raise"])),
        asyncio.create_task(made.run("answer", source(), ["xyzzy"])),
    ]
    assert await tasks[0]
    assert await refused(tasks[1]) == "internal_error"
    assert await refused(tasks[2]) == "internal_error"
    with pytest.raises(ItemError, match="Unknown words"):
        await tasks[3]
    await first
    assert recorder.sizes("encode")[-1] == 4


async def test_out_of_memory_halves_the_batch_and_recovers() -> None:
    """The items that did not fit together are answered in parts, and later batches are smaller."""
    async with engine(run_batch=8) as (made, _):
        first = await busy(made, 0.3)
        image = source()
        results = await asyncio.gather(*(made.run("answer", image, ["!memory 2"]) for _ in range(8)))
        await first
        assert len(results) == 8
        assert made.replicas[0].batcher.run_batch == 2
        whole = await made.run("answer", image, ["!memory 2"] * 5)
        assert len(said(whole)) == 5
        assert await refused(asyncio.ensure_future(made.run("answer", image, ["!memory 0"]))) == "overloaded"


async def test_out_of_memory_bounds_batches_in_texts_and_only_when_batches_are_at_fault() -> None:
    """Sixteen texts of one request of which eight fit: eight a batch. A text that never fits tells nothing of that."""
    async with engine(run_batch=32) as (made, _):
        image, batcher = source(), made.replicas[0].batcher
        assert len(said(await made.run("answer", image, ["!memory 8"] * 16))) == 16
        assert batcher.run_batch == 8
        batcher.run_batch = 32
        first = await busy(made, 0.3)
        beside = [asyncio.create_task(made.run("answer", image, ["ok?"])) for _ in range(3)]
        guilty = asyncio.create_task(made.run("answer", image, ["!memory 0"]))
        assert await refused(guilty) == "overloaded"
        assert all(await asyncio.gather(first, *beside))
        assert batcher.run_batch == 32
