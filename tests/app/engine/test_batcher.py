"""What shares a call, and what goes first."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from app.engine.batcher import GATHER, Batcher
from app.engine.cache import Entry
from app.engine.jobs import Batch, EncodeJob, Job, RunJob
from app.engine.messages import RunItem
from app.errors import RequestError
from model.interface import Geometry, MapKind, MapRequest, Pixels, Region

GEOMETRY = Geometry(1, 1, 1, 1, Region(0.0, 0.0, 1.0, 1.0))


def image(key: str, *, ready: bool = False) -> Entry:
    """An image, encoded or not."""
    return Entry(key, geometry=GEOMETRY if ready else None)


def encode(entry: Entry) -> EncodeJob:
    """An image that waits."""
    pixels = Pixels(np.zeros((1, 1, 3), np.uint8), GEOMETRY)
    return EncodeJob(entry, pixels, 0.0, asyncio.get_running_loop().create_future())


def run(entry: Entry | str, *texts: str, maps: MapRequest | None = None) -> RunJob:
    """Texts that wait; where only the key of their image is given, it is encoded."""
    of = image(entry, ready=True) if isinstance(entry, str) else entry
    item = RunItem(of.key, texts or ("what?",), maps=maps)
    return RunJob("answer", item, of, 0.0, asyncio.get_running_loop().create_future())


def put(batcher: Batcher, key: str, *texts: tuple[str, ...]) -> tuple[EncodeJob, list[RunJob]]:
    """Queue an image and requests for it."""
    entry = image(key)
    encoding, runs = encode(entry), [run(entry, *request) for request in texts]
    for job in (encoding, *runs):
        batcher.put(job)
    return encoding, runs


@pytest.fixture
def dropped() -> list[Job]:
    """What was dropped."""
    return []


@pytest.fixture
def batcher(dropped: list[Job]) -> Batcher:
    """One image a call, as on a CPU."""
    return Batcher(encode_batch=1, run_batch=8, on_drop=dropped.append)


def keys(batch: Batch | None) -> list[str]:
    """The images of a batch of texts."""
    assert batch is not None
    assert not batch.encodes
    return [job.item.key for job in batch.runs]


def settle(batcher: Batcher, batch: Batch) -> tuple[int, int]:
    """What the replica does when a batch is done. Returns how many images and how many jobs of texts there were."""
    for job in batch.encodes:
        job.entry.geometry = GEOMETRY
        batcher.encoded(job.entry)
    return len(batch.encodes), len(batch.runs)


async def test_texts_are_gathered_while_many_images_wait(batcher: Batcher) -> None:
    """`GATHER` images, the last of them with the texts of all; when few images are left, each goes with its own."""
    for n in range(3 * GATHER - 1):
        put(batcher, f"image {n}", ("what?",))
    order = []
    while batch := batcher.take():
        order.append(settle(batcher, batch))
    gathered = [*[(1, 0)] * (GATHER - 1), (1, GATHER)]
    assert order == [*gathered, *gathered, *[(1, 1)] * (GATHER - 1)]


async def test_texts_go_before_images(batcher: Batcher) -> None:
    """A request is finished before another is begun, unless many wait."""
    put(batcher, "b")
    batcher.put(run("a"))
    assert keys(batcher.take()) == ["a"]
    batch = batcher.take()
    assert batch is not None
    assert [job.entry.key for job in batch.encodes] == ["b"]
    assert not batch.runs


async def test_no_image_waits_for_many_runs(batcher: Batcher) -> None:
    """Texts that keep coming would keep a single image out for as long as they come."""
    put(batcher, "new", ("what?",))
    batcher.put(run("old"))
    for _ in range(GATHER):
        batcher.put(run("old"))  # comes before the worker is free again
        assert keys(batcher.take())[0] == "old"
        batcher.put(run("old"))
    batch = batcher.take()
    assert batch is not None
    assert [job.entry.key for job in batch.encodes] == ["new"]
    assert {job.item.key for job in batch.runs} == {"old", "new"}


async def test_texts_that_cannot_share_the_call_stay_with_their_image(batcher: Batcher) -> None:
    """They are put when it is encoded."""
    encoding, (first, other) = put(batcher, "a", ("what?",), ("what?",) * 8)
    batch = batcher.take()
    assert batch is not None
    assert batch.encodes == [encoding]
    assert batch.runs == [first]
    assert batcher.take() is None
    settle(batcher, batch)
    batch = batcher.take()
    assert batch is not None
    assert batch.runs == [other]


async def test_an_image_that_is_given_up_fails_what_waits_for_it(batcher: Batcher) -> None:
    """Each request raises an exception of its own, and nothing is left."""
    encoding, runs = put(batcher, "a", ("what?",), ("who?",))
    _, others = put(batcher, "b", ("what?",))
    batcher.drop(encoding.entry, RequestError("image_broken", "It is damaged."))
    errors = [job.future.exception() for job in runs]
    assert [error.code for error in errors if isinstance(error, RequestError)] == ["image_broken"] * 2
    assert errors[0] is not errors[1]
    assert not others[0].future.done()
    batcher.encoded(encoding.entry)
    assert batcher.texts == 0


async def test_a_request_that_leaves_does_not_go_with_its_image(batcher: Batcher) -> None:
    """Nor does it come back when the image is encoded."""
    encoding, (leaving, staying) = put(batcher, "a", ("what?",), ("who?",))
    batcher.withdraw(leaving)
    batch = batcher.take()
    assert batch is not None
    assert batch.encodes == [encoding]
    assert batch.runs == [staying]


async def test_all_that_waits_fails_with_its_worker(batcher: Batcher) -> None:
    """Images, texts, and texts whose image is not encoded."""
    encoding, runs = put(batcher, "a", ("what?",))
    ready = run("b")
    batcher.put(ready)
    batcher.drain(RequestError("worker_failed", "It died."))
    assert all(isinstance(job.future.exception(), RequestError) for job in (encoding, *runs, ready))
    assert batcher.take() is None


@pytest.mark.parametrize("kind", ["gradient", "rollout"])
async def test_maps_that_need_a_second_pass_run_apart(batcher: Batcher, kind: MapKind) -> None:
    """Texts of one image, all the same: those without such a map need not wait for the second pass."""
    for maps in (None, MapRequest(kind), MapRequest("raw"), MapRequest(kind)):
        batcher.put(run("a", maps=maps))
    sizes = []
    while batch := batcher.take():
        sizes.append([job.item.maps.kind if job.item.maps else None for job in batch.runs])
    assert sizes == [[None, "raw"], [kind, kind]]


async def test_a_run_is_made_of_one_image_first_and_of_one_length(batcher: Batcher) -> None:
    """The oldest text leads; its image's other texts come before those of other images, and long ones wait."""
    long = "why " * 100
    for job in (run("a"), run("b"), run("c", long), run("a", long), run("a", "who?"), run("d", *["what?"] * 6)):
        batcher.put(job)
    assert keys(batcher.take()) == ["a", "a", "a", "b"]  # d has too many texts for what is left of the batch
    assert keys(batcher.take()) == ["c"]
    assert keys(batcher.take()) == ["d"]


async def test_what_nobody_waits_for_is_dropped(batcher: Batcher, dropped: list[Job]) -> None:
    """Cancelled jobs never reach the model."""
    gone = run("a")
    gone.future.cancel()
    batcher.put(gone)
    batcher.put(run("b"))
    assert keys(batcher.take()) == ["b"]
    assert dropped == [gone]


async def test_candidates_count_in_a_call(batcher: Batcher) -> None:
    """By their characters: two requests of many long ones do not share a call, of a few short ones they do."""
    long, short = ("a" * 200,) * 6, ("cat", "dog")
    for candidates, size in ((long, 1), (short, 2)):
        jobs = [run("a", "what?"), run("a", "who?")]
        for job in jobs:
            job.item = replace(job.item, candidates=candidates)
            batcher.put(job)
        batch = batcher.take()
        assert batch is not None
        assert len(batch.runs) == size
        assert batcher.full(batch.runs) is False
        while batcher.take() is not None:
            pass
    alone = run("a", "what?")
    alone.item = replace(alone.item, candidates=("a" * 200,) * 7)
    assert batcher.full([alone])
