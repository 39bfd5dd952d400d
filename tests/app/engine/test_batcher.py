"""What shares a call, and what goes first."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from app.engine.batcher import GATHER, Batch, Batcher, EncodeJob, Job, RunJob
from app.engine.cache import Entry
from app.engine.engine import default_workers
from app.engine.worker import RunItem
from model.interface import Geometry, Pixels, Region

GEOMETRY = Geometry(1, 1, 1, 1, Region(0.0, 0.0, 1.0, 1.0))


def encode(key: str, *waiting: RunJob) -> EncodeJob:
    """An image that waits, and what waits for it."""
    pixels = Pixels(np.zeros((1, 1, 3), np.uint8), GEOMETRY)
    return EncodeJob(Entry(key, waiting=[*waiting]), pixels, 0.0, asyncio.get_running_loop().create_future())


def run(key: str, *texts: str) -> RunJob:
    """Texts that wait."""
    return RunJob("answer", RunItem(key, texts or ("what?",)), 0.0, asyncio.get_running_loop().create_future())


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
        for waiting in job.entry.waiting:
            batcher.put(waiting)
    return len(batch.encodes), len(batch.runs)


async def test_texts_are_gathered_while_many_images_wait(batcher: Batcher) -> None:
    """`GATHER` images, the last of them with the texts of all; when few images are left, each goes with its own."""
    for n in range(3 * GATHER - 1):
        batcher.put(encode(f"image {n}", run(f"image {n}")))
    order = []
    while batch := batcher.take():
        order.append(settle(batcher, batch))
    gathered = [*[(1, 0)] * (GATHER - 1), (1, GATHER)]
    assert order == [*gathered, *gathered, *[(1, 1)] * (GATHER - 1)]


async def test_texts_go_before_images(batcher: Batcher) -> None:
    """A request is finished before another is begun, unless many wait."""
    batcher.put(encode("b"))
    batcher.put(run("a"))
    assert keys(batcher.take()) == ["a"]
    batch = batcher.take()
    assert batch is not None
    assert [job.entry.key for job in batch.encodes] == ["b"]
    assert not batch.runs


async def test_no_image_waits_for_many_runs(batcher: Batcher) -> None:
    """Texts that keep coming would keep a single image out for as long as they come."""
    batcher.put(encode("new", run("new")))
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
    first, other = run("a"), run("a", *["what?"] * 8)
    image = encode("a", first, other)
    batcher.put(image)
    batch = batcher.take()
    assert batch is not None
    assert batch.runs == [first]
    assert image.entry.waiting == [other]


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


def test_workers_that_nobody_chose() -> None:
    """One a GPU; on a CPU two, where there are two cores."""
    assert default_workers("cuda:1", 16) == 1
    assert default_workers("cpu", 1) == 1
    assert default_workers("cpu", 16) == 2
