"""The engine: whose images are whose, who is refused, where a request goes, and what leaves before the model."""

from __future__ import annotations

import asyncio
import os
import signal
from time import perf_counter

import pytest

from app.engine.engine import Engine, ImageSource
from app.errors import RequestError
from model.interface import MapRequest
from tests.app.engine.tools import Recorder, busy, engine, refused, said, source, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


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
        assert all(replica.images.encoded for replica in made.replicas)
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
