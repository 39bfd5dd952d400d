"""What goes over the socket between the parent and a worker."""

from __future__ import annotations

import io

import numpy as np
import pytest

from app.engine.messages import (
    HEADER,
    Abandon,
    Encode,
    Encoded,
    Failure,
    Load,
    LoadFailed,
    Reply,
    Run,
    RunItem,
    Working,
    pack,
    receive,
    send,
    unpack,
    with_packed,
)
from model.interface import ItemError, Map, MapRequest, Output, Ranked, TextOutput

MESSAGES = [
    Load("module:function", {"name": "tiny"}, "debug", "json"),
    LoadFailed("no weights"),
    Run("answer", (RunItem("a", ("what?", "é" * 70_000), ("yes", "no"), 2, MapRequest("raw", (0,))),), ("b",)),
    Encode((), ("a", "b"), Run("match", ())),
    Reply([Failure(True, "MemoryError")], 0.5, 4, Reply([], 0.25)),
    Working(),
    Abandon(),
]


def test_messages_arrive_as_they_were_sent() -> None:
    """One after the other, then the end."""
    stream = io.BytesIO()
    for message in MESSAGES:
        send(stream, message)
    stream.seek(0)
    assert [receive(stream) for _ in MESSAGES] == MESSAGES
    assert receive(stream) is None


def test_outputs_are_packed_wherever_they_stand_and_all_else_is_left() -> None:
    """In a reply to a run, and in that of the run that went with an encode."""
    values = np.random.default_rng(0).random((2, 3), np.float32)
    text = TextOutput((Ranked("yes", 0.5),), "vocabulary", 0.5, answer_map=Map(values, 0.25))
    error, failure = ItemError("question_empty", "no text", 0), Failure(False, "ValueError")
    run = Reply([Output((text,)), error, failure], 0.5, 4)
    for reply, sent in ((run, with_packed(run)), (run, with_packed(Reply([Encoded(3)], 0.1, run=run)).run)):
        stream = io.BytesIO()
        send(stream, sent)
        stream.seek(0)
        packed, other, another = receive(stream).results
        assert (other.code, another) == ("question_empty", failure)
        (found,) = packed.unpack().texts
        np.testing.assert_array_equal(found.answer_map.values, values)
        assert (found.ranking, found.answer_map.elsewhere) == (text.ranking, 0.25)
        assert sent is not None
        assert (sent.seconds, sent.batch_that_fits) == (reply.seconds, 4)
    assert with_packed(Reply([Encoded(3)], 0.1)) == Reply([Encoded(3)], 0.1)


def test_the_header_is_the_length_of_the_body() -> None:
    """In network order: it is what the other end waits for."""
    head, body = pack(MESSAGES[2])
    assert len(head) == HEADER.size == 8
    assert int.from_bytes(head, "big") == len(body) > 70_000


@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_stream_that_ends_in_a_header_is_at_its_end(size: int) -> None:
    """The other process is gone."""
    assert receive(io.BytesIO(b"\0" * size)) is None


def test_a_map_comes_as_it_was_sent() -> None:
    values = np.random.default_rng(0).random((3, 5), np.float32)
    sent = Map(values[:, ::2], 0.25)
    found = unpack(pack(sent)[1])
    assert (found.values.dtype, found.elsewhere) == (np.float32, 0.25)
    np.testing.assert_array_equal(found.values, sent.values)
