"""Which images are kept, and which are evicted first."""

from __future__ import annotations

import pytest

from app.engine.cache import Entry, ImageCache
from model.interface import Geometry, Region

GEOMETRY = Geometry(1, 1, 1, 1, Region(0.0, 0.0, 1.0, 1.0))


def kept(cache: ImageCache, key: str, *, nbytes: int = 100, at: float = 0.0) -> Entry:
    """An encoded image, used once at a time and in use no more."""
    entry = Entry(key)
    cache.add(entry)
    cache.pin(entry, at)
    cache.fill(entry, nbytes=nbytes, geometry=GEOMETRY)
    cache.release(entry)
    return entry


def test_the_least_recently_used_go_first_and_no_more_than_needed() -> None:
    """A cache of 250 bytes: of three images of 100 one goes, and not the one that was used again."""
    cache = ImageCache(250, 60.0)
    first = kept(cache, "a", at=0.0)
    kept(cache, "b", at=1.0)
    cache.pin(first, 2.0)
    cache.release(first)
    kept(cache, "c", at=3.0)
    assert cache.shrink(3.0) == ("b",)
    assert (cache.nbytes, cache.evictions, len(cache)) == (200, 1, 2)
    assert [entry.key for entry in cache] == ["a", "c"]
    assert cache.shrink(3.0) == ()


def test_what_fits_exactly_stays() -> None:
    """The capacity is what may be kept."""
    cache = ImageCache(200, 60.0)
    for key in "ab":
        kept(cache, key)
    assert cache.shrink(0.0) == ()


def test_an_image_in_use_is_never_evicted() -> None:
    """Not for room and not for age, and by none but its last user's release; others go in its place."""
    cache = ImageCache(10, 60.0)
    entry = kept(cache, "a")
    for _ in range(2):
        cache.pin(entry, 0.0)
    kept(cache, "b")
    assert cache.shrink(1000.0) == ("b",)
    cache.release(entry)
    assert cache.shrink(1000.0) == ()
    cache.release(entry)
    assert cache.shrink(0.0) == ("a",)
    assert cache.nbytes == 0


def test_an_image_that_is_still_loading_is_not_evicted() -> None:
    """The worker could not forget what it does not have."""
    cache = ImageCache(0, 0.0)
    entry = Entry("a")
    cache.add(entry)
    assert not entry.ready
    assert cache.shrink(1000.0) == ()
    assert cache.peek("a") is entry
    cache.drop(entry)
    assert (len(cache), cache.nbytes) == (0, 0)


def test_images_grow_old_by_their_last_use() -> None:
    """At the end of their lifetime they may stay; past it they go, however much room there is."""
    cache = ImageCache(1000, 60.0)
    kept(cache, "a", at=0.0)
    kept(cache, "b", at=10.0)
    assert cache.shrink(60.0) == ()
    assert cache.shrink(60.5) == ("a",)
    assert cache.shrink(71.0) == ("b",)
    assert cache.evictions == 2


def test_to_look_is_not_to_use() -> None:
    """`peek` leaves the order alone."""
    cache = ImageCache(100, 60.0)
    kept(cache, "a")
    kept(cache, "b")
    assert cache.peek("a") is not None
    assert cache.shrink(0.0) == ("a",)
    assert cache.peek("a") is None


def test_dropping_counts_bytes_once_and_spares_a_newer_image_of_the_key() -> None:
    """An entry that was given up may be dropped again after another took its key."""
    cache = ImageCache(1000, 60.0)
    old = kept(cache, "a", nbytes=70)
    cache.drop(old)
    cache.drop(old)
    assert cache.nbytes == 0
    new = kept(cache, "a", nbytes=30)
    cache.drop(old)
    assert cache.peek("a") is new
    assert cache.nbytes == 30
    assert cache.evictions == 0


@pytest.mark.parametrize("count", [0, 3])
def test_a_lost_worker_takes_everything_with_it(count: int) -> None:
    """No bytes are left in the book."""
    cache = ImageCache(1000, 60.0)
    for n in range(count):
        kept(cache, str(n))
    cache.clear()
    assert (len(cache), cache.nbytes) == (0, 0)
