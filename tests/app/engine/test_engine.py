"""The engine: what is encoded once, what runs together, what is kept, what fails and what does not."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Any

import pytest
import pytest_asyncio

from app.engine.engine import Engine, ImageSource
from app.engine.messages import Encode, Reply, Run
from app.errors import RequestError
from model.interface import ItemError, MapRequest, Pixels, Preprocess
from tests.app.engine.tools import Recorder, busy, engine, refused, said, source, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared() -> AsyncIterator[tuple[Engine, Recorder]]:
    """One engine for all tests that leave it alive."""
    async with engine(encode_batch=4, run_batch=8) as pair:
        yield pair


@pytest.fixture
def ready(shared: tuple[Engine, Recorder]) -> tuple[Engine, Recorder]:
    """The shared engine with an empty record."""
    shared[1].batches.clear()
    shared[1].dropped.clear()
    return shared


async def test_concurrent_requests_for_one_image_encode_it_once(ready: tuple[Engine, Recorder]) -> None:
    """Single flight: ten requests at once, one decode, one encode; nine of them shared it."""
    made, _ = ready
    before = made.encoded
    image = source(delay=0.05)
    results = await asyncio.gather(*(made.run("answer", image, [f"{n}?"]) for n in range(10)))
    assert made.encoded == before + 1
    assert sorted(result.cache for result in results) == ["miss"] + ["shared"] * 9
    assert (await made.run("answer", image, ["again?"])).cache == "hit"


async def test_requests_that_share_an_image_do_not_share_an_exception(ready: tuple[Engine, Recorder]) -> None:
    """Each may write into its own."""
    made, _ = ready

    def load(preprocess: Preprocess) -> Pixels:
        time.sleep(0.05)
        raise RequestError("image_broken", "It is damaged.", detail={"at": 7})

    image = ImageSource(b"broken", load)
    work = [
        made.run("answer", image, ["what?"]),
        made.encode(image),
        made.run("answer", image, ["who?"]),
        made.encode(image),
    ]
    errors = await asyncio.gather(*work, return_exceptions=True)
    assert [(error.code, error.detail) for error in errors if isinstance(error, RequestError)] == [
        ("image_broken", {"at": 7})
    ] * 4
    assert len(set(map(id, errors))) == 4


async def test_texts_are_needed(ready: tuple[Engine, Recorder]) -> None:
    """An answer has an output: an image alone is for `Engine.encode`."""
    made, _ = ready
    with pytest.raises(ValueError, match="no texts"):
        await made.run("answer", source(), [])
    before = made.encoded
    image = source()
    assert (await made.encode(image)).cache == "miss"
    assert (await made.encode(image)).cache == "hit"
    assert made.encoded == before + 1


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


async def test_the_cache_is_bounded_in_bytes_and_forgets_the_least_recently_used() -> None:
    """Three images fit; the one used longest ago makes place, in the parent's book and in the worker."""
    async with engine(cache_bytes=3000) as (made, _):
        images = [source() for _ in range(4)]
        ids = [(await made.run("answer", image, ["what?"])).image_id for image in images[:3]]
        await made.run("answer", images[0], ["what?"])
        await made.run("answer", images[3], ["what?"])
        assert made.replicas[0].cache.nbytes == 3000
        assert made.replicas[0].cache.evictions == 1
        assert (await made.run("answer", ImageSource(image_id=ids[0]), ["what?"])).cache == "hit"
        gone = asyncio.ensure_future(made.run("answer", ImageSource(image_id=ids[1]), ["what?"]))
        assert await refused(gone) == "image_not_found"
        again = await made.run("answer", images[1], ["what?"])
        assert again.cache == "miss"
        assert again.image_id == ids[1]


async def test_the_worker_is_told_what_to_forget() -> None:
    """Each image that is evicted, once, with the next message: or its memory would grow for ever."""
    async with engine(cache_bytes=1000) as (made, _):
        replica, forgotten = made.replicas[0], []
        call = replica.worker.call

        async def listen(message: Encode | Run, **options: Any) -> Reply:
            forgotten.extend(message.evict)
            return await call(message, **options)

        replica.worker.call = listen  # type: ignore[method-assign]
        ids = [(await made.run("answer", source(), ["what?"])).image_id for _ in range(4)]
        assert forgotten == ids[:2]
        assert replica.cache.evictions == 3
        assert [entry.key for entry in replica.cache] == ids[3:]


async def test_a_cache_of_nothing_still_answers() -> None:
    """With no room at all an image is kept for its own request only."""
    async with engine(cache_bytes=0) as (made, _):
        image = source()
        for _ in range(2):
            assert (await made.run("answer", image, ["a?", "b?"])).cache == "miss"
        assert made.replicas[0].cache.nbytes == 0


async def test_images_grow_old() -> None:
    """An image that was not used for the lifetime is dropped."""
    async with engine(cache_seconds=0.2) as (made, _):
        await made.run("answer", source(), ["what?"])
        await asyncio.sleep(0.3)
        await made.run("answer", source(), ["what?"])
        assert len(made.replicas[0].cache) == 1


async def test_ids_belong_to_the_key_that_sent_the_image(ready: tuple[Engine, Recorder]) -> None:
    """Another key's id is as unknown as any; sending the bytes gives one's own, and tells nothing of the other's."""
    made, _ = ready
    name = b"scoped"
    sent = await made.encode(source(name=name, scope="ann"))
    theirs = ImageSource(image_id=sent.image_id, scope="bob")
    assert await refused(asyncio.ensure_future(made.run("answer", theirs, ["what?"]))) == "image_not_found"
    own = await made.run("answer", source(name=name, scope="bob"), ["what?"])
    assert (own.cache, own.image_id == sent.image_id) == ("miss", False)
    assert await refused(asyncio.ensure_future(made.run("answer", theirs, ["what?"]))) == "image_not_found"
    again = ImageSource(image_id=own.image_id, scope="bob")
    assert (await made.run("answer", again, ["what?"])).cache == "hit"


async def test_a_request_past_its_deadline_is_dropped_before_the_model(ready: tuple[Engine, Recorder]) -> None:
    """The worker never sees what is cancelled."""
    made, recorder = ready
    image = source()
    await made.run("answer", image, ["warm?"])
    first = await busy(made, 0.5)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await made.run("answer", image, ["late?"])
    await first
    await made.run("answer", image, ["next?"])
    assert recorder.dropped == ["run"]


async def test_a_cancelled_request_is_dropped_before_the_model(ready: tuple[Engine, Recorder]) -> None:
    """Whoever leaves costs nothing; who waits for the same image is not disturbed."""
    made, recorder = ready
    first = await busy(made, 0.5)
    image, alone = source(), source()
    before = made.encoded
    leaving = asyncio.create_task(made.run("answer", image, ["leaving?"]))
    staying = asyncio.create_task(made.run("answer", image, ["staying?"]))
    gone = asyncio.create_task(made.run("answer", alone, ["gone?"]))
    await until(lambda: made.replicas[0].batcher.encodes == 2)
    leaving.cancel()
    gone.cancel()
    assert (await staying).cache == "shared"
    await first
    assert made.encoded == before + 2  # the one that kept the worker busy, and the one that somebody waits for
    assert recorder.dropped == ["encode"]
    assert made.admission.items == 0


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    """503 with a time from the measured rate; what was accepted is answered."""
    async with engine(queue_items=6) as (made, _):
        await made.run("answer", source(), ["!slow 0.2"])
        image = source()
        await made.run("answer", image, ["warm?"])
        first = await busy(made, 0.3)
        accepted = [asyncio.create_task(made.run("answer", image, ["ok?"])) for _ in range(4)]
        await asyncio.sleep(0.01)
        with pytest.raises(RequestError) as caught:
            await made.run("answer", image, ["a?"] * 3)
        assert caught.value.code == "overloaded"
        assert caught.value.retry_after is not None
        assert 1.0 <= caught.value.retry_after <= 60.0
        assert all(await asyncio.gather(first, *accepted))
        assert len(said(await made.run("answer", image, ["a?"] * 20))) == 20


async def test_a_long_estimated_wait_refuses() -> None:
    """The bound in seconds comes from the measured time of earlier calls."""
    async with engine(queue_seconds=0.5) as (made, _):
        image = source()
        for _ in range(2):
            await made.run("answer", image, ["!slow 0.4"])
        tasks = [asyncio.create_task(made.run("answer", image, ["!slow 0.4"])) for _ in range(2)]
        await asyncio.sleep(0.01)
        assert await refused(asyncio.ensure_future(made.run("answer", image, ["ok?"]))) == "overloaded"
        await asyncio.gather(*tasks)


async def test_the_estimated_wait_is_that_of_the_worker_that_has_the_image() -> None:
    """All questions about one image go to one worker: they are refused by what waits there, others are not."""
    async with engine(workers=2, queue_seconds=0.5) as (made, _):
        await until(lambda: all(replica.state == "ready" for replica in made.replicas))
        image = source()
        await made.run("answer", image, ["!slow 0.2"])
        made.admission.run.seconds = 0.3
        tasks = [asyncio.create_task(made.run("answer", image, ["!slow 0.3"])) for _ in range(2)]
        await asyncio.sleep(0.01)
        assert made.wait() < 0.1
        assert await refused(asyncio.ensure_future(made.run("answer", image, ["ok?"]))) == "overloaded"
        assert await made.run("answer", source(), ["ok?"])
        await asyncio.gather(*tasks)


async def test_several_workers_share_the_load_and_keep_to_their_images() -> None:
    """Two replicas: both work, an image stays where it was encoded, and one dying leaves the other at work."""
    async with engine(workers=2) as (made, _):
        await until(lambda: all(replica.state == "ready" for replica in made.replicas))
        images = [source() for _ in range(8)]
        await asyncio.gather(*(made.run("answer", image, ["what?"]) for image in images))
        assert all(replica.encoded for replica in made.replicas)
        results = await asyncio.gather(*(made.run("answer", image, ["again?"]) for image in images))
        assert {result.cache for result in results} == {"hit"}
        os.kill(made.replicas[0].worker.pid or 0, signal.SIGKILL)
        await until(lambda: made.replicas[0].state != "ready")
        assert made.ready
        assert (await made.run("answer", source(), ["what?"])).cache == "miss"


async def test_a_request_goes_where_it_begins_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both replicas work on one text: the next image goes to the one that began earlier, until past its time."""
    async with engine(workers=2) as (made, _):
        await until(lambda: all(replica.state == "ready" for replica in made.replicas))
        images = [source(), source()]
        await asyncio.gather(*(made.run("answer", image, ["what?"]) for image in images))
        earlier, later = (made._replica(made.image_id(image.content)) for image in reversed(images))
        assert earlier is not later
        made.admission.run.seconds = 10.0
        began, work = [], []
        for image in reversed(images):
            began.append(perf_counter())
            work.append(asyncio.create_task(made.run("answer", image, ["!slow 1"])))
            await asyncio.sleep(0.1)
        monkeypatch.setattr("app.engine.engine.perf_counter", lambda: began[1] + 1.0)
        assert made._replica("another") is earlier
        monkeypatch.setattr("app.engine.engine.perf_counter", lambda: began[1] + 20.0)
        assert made._replica("another") is later
        monkeypatch.undo()
        await asyncio.gather(*work)


async def test_maps_cross_the_process_boundary(ready: tuple[Engine, Recorder]) -> None:
    """Asked for, they come; not asked for, they do not."""
    made, _ = ready
    image = source()
    output = (await made.run("answer", image, ["what?"], maps=MapRequest())).output
    assert output.maps is not None
    assert output.texts[0].answer_map is not None
    output = (await made.run("answer", image, ["what?"])).output
    assert output.maps is None
