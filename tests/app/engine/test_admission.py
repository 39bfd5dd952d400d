"""How much is accepted: items, bytes and the estimated wait."""

from __future__ import annotations

import pytest

from app.engine.admission import Admission, CostEstimate
from app.errors import RequestError


def test_the_backlog_counts_bytes_of_all_requests() -> None:
    """Too many bytes at once are refused, a single large request is not."""
    admission = Admission(max_items=10, max_bytes=100, max_seconds=10.0)
    admission.take_bytes(150)
    with pytest.raises(RequestError, match="bytes"):
        admission.take_bytes(1)
    admission.give_bytes(150)
    admission.take_bytes(60)
    admission.take_bytes(40)
    assert admission.nbytes == 100


def test_a_queue_is_full_at_its_bound_and_not_before() -> None:
    """A request larger than the bound passes when nothing else waits."""
    admission = Admission(4, 100, 60.0)
    with admission.hold(images=1, texts=2):
        admission.check(1)
        with pytest.raises(RequestError) as caught:
            admission.check(2)
        assert caught.value.code == "overloaded"
        assert not admission.idle.is_set()
    assert (admission.images, admission.texts) == (0, 0)
    assert admission.idle.is_set()
    with admission.hold(texts=9):
        assert admission.items == 9


def test_what_is_held_is_let_go_of_when_the_request_fails() -> None:
    """Or the queue would fill up with ghosts."""
    admission = Admission(4, 100, 60.0)
    with pytest.raises(KeyError), admission.hold(images=1, texts=3):
        raise KeyError
    assert admission.items == 0


def test_the_wait_is_shared_by_the_replicas_and_bounds_what_is_accepted() -> None:
    """Half a second for an image and 0.1 for a text, over two workers."""
    admission = Admission(1000, 100, 2.0, replicas=2)
    admission.encode.observe(2, 1.0)
    admission.run.observe(10, 1.0)
    assert admission.seconds(2, 3) == pytest.approx(1.3)
    with admission.hold(images=6, texts=10):
        assert admission.wait() == pytest.approx(2.0)
        admission.check()
        with admission.hold(texts=2), pytest.raises(RequestError) as caught:
            admission.check()
        assert caught.value.code == "overloaded"
        admission.check(wait=1.0)
        with pytest.raises(RequestError) as caught:
            admission.check(wait=12.0)
        assert caught.value.retry_after == pytest.approx(10.0)
        with pytest.raises(RequestError) as caught:
            admission.check(wait=1e9)
        assert caught.value.retry_after == 60.0


def test_an_estimate_follows_what_is_measured() -> None:
    """The first batch sets it; later ones move it by their items, and what was before counts less."""
    cost = CostEstimate()
    cost.observe(4, 2.0)
    assert cost.seconds == pytest.approx(0.5)
    cost.observe(1, 1.5)
    assert cost.seconds == pytest.approx((3.6 * 0.5 + 1.5) / 4.6)


def test_a_call_for_one_item_tells_little_of_a_call_for_many() -> None:
    """Calls for one item take 0.1 s, one for 200 takes 4 s: what is expected of the next one is near that."""
    cost = CostEstimate()
    for _ in range(20):
        cost.observe(1, 0.1)
    cost.observe(200, 4.0)
    assert 200 * cost.seconds == pytest.approx(4.0, rel=0.2)
