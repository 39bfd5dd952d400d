"""What shares a call, and what goes first."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from app.engine.batcher import GATHER, Batcher, EncodeJob, Job, RunJob
from app.engine.engine import default_workers
from app.engine.worker import RunItem
from model.interface import Geometry, Pixels, Region

GEOMETRY = Geometry(1, 1, 1, 1, Region(0.0, 0.0, 1.0, 1.0))


def encode(key: str) -> EncodeJob:
    """An image that waits."""
    pixels = Pixels(np.zeros((1, 1, 3), np.uint8), GEOMETRY)
    return EncodeJob(key, pixels, 0.0, asyncio.get_running_loop().create_future())


def run(key: str, *texts: str) -> RunJob:
    """Texts that wait."""
    return RunJob("answer", RunItem(key, texts or ("what?",)), "one", 0.0, asyncio.get_running_loop().create_future())


@pytest.fixture
def dropped() -> list[Job]:
    """What was dropped."""
    return []


@pytest.fixture
def batcher(dropped: list[Job]) -> Batcher:
    """One image a call, as on a CPU."""
    return Batcher(encode_batch=1, run_batch=8, on_drop=dropped.append)


def keys(batch: list[EncodeJob] | list[RunJob]) -> list[str]:
    """The images of a batch."""
    return [job.item.key if isinstance(job, RunJob) else job.key for job in batch]


async def test_texts_are_gathered_while_many_images_wait(batcher: Batcher) -> None:
    """`GATHER` images, then all their texts in one call; when few images are left, each text goes at once."""
    for n in range(3 * GATHER - 1):
        batcher.put(encode(f"image {n}"))
    order: list[object] = []
    while batch := batcher.take():
        order.append(len(batch) if isinstance(batch[0], RunJob) else "image")
        if isinstance(batch[0], EncodeJob):
            batcher.put(run(batch[0].key))
    assert order == [*["image"] * GATHER, GATHER, *["image"] * GATHER, GATHER, *["image", 1] * (GATHER - 1)]


async def test_texts_go_before_images(batcher: Batcher) -> None:
    """A request is finished before another is begun, unless many wait."""
    batcher.put(encode("b"))
    batcher.put(run("a"))
    assert keys(batcher.take()) == ["a"]
    assert keys(batcher.take()) == ["b"]


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
