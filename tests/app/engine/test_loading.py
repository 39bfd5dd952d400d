"""What is decoded and encoded once, what is kept, and what the worker is told to forget."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from app.engine.engine import Engine, ImageSource
from app.engine.messages import Encode, Reply, Run
from app.errors import RequestError
from model.interface import Pixels, Preprocess
from tests.app.engine.tools import Recorder, engine, refused, source

pytestmark = pytest.mark.asyncio(loop_scope="module")


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
