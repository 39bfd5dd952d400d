"""What the worker makes of a message, without the process around it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from PIL import Image

from app.engine.worker import Encode, Run, RunItem, Server
from model.interface import Item, ItemError, MapRequest, Output, Task
from tests.app import standin


class Recording(standin.StandIn):
    """Notes which texts came as one item."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, ...]] = []

    def run(self, task: Task, items: Sequence[Item]) -> list[Output | ItemError]:
        self.seen += [item.texts for item in items]
        return super().run(task, items)


@pytest.fixture
def server() -> Server:
    """A worker that keeps the images ``dark`` and ``light``."""
    server = Server(Recording())
    images = [Image.new("RGB", (24, 16), (shade, shade, shade)) for shade in (10, 200)]
    server.handle(Encode(tuple(zip(("dark", "light"), map(standin.preprocess, images), strict=True))))
    return server


def seen(server: Server) -> list[tuple[str, ...]]:
    """What the model was given."""
    assert isinstance(server.model, Recording)
    return server.model.seen


def test_requests_about_one_image_are_one_item(server: Server) -> None:
    """Their texts go side by side, each gets its own results back, and other options keep apart."""
    items = (
        RunItem("dark", ("a",)),
        RunItem("light", ("b", "c")),
        RunItem("dark", ("d", "e")),
        RunItem("dark", ("f",), maps=MapRequest()),
    )
    results = server.handle(Run("answer", items)).results
    assert seen(server) == [("a", "d", "e"), ("b", "c"), ("f",)]
    assert [[text.ranking[0].answer for text in result.texts] for result in results] == [
        ["10"],
        ["200", "200"],
        ["10", "10"],
        ["10"],
    ]
    assert [result.maps is not None for result in results] == [False, False, False, True]


def test_one_bad_text_is_the_error_of_its_own_request(server: Server) -> None:
    """The others about the same image are answered; the index counts within the request."""
    items = (RunItem("dark", ("a",)), RunItem("dark", ("b", "xyzzy")), RunItem("dark", ("c",)))
    first, second, third = server.handle(Run("answer", items)).results
    assert isinstance(first, Output)
    assert isinstance(third, Output)
    assert isinstance(second, ItemError)
    assert second.index == 1


def test_texts_to_compare_are_never_joined(server: Server) -> None:
    """Scores of a match are over the texts of its request."""
    server.handle(Run("match", (RunItem("dark", ("a", "b")), RunItem("dark", ("c",)))))
    assert seen(server) == [("a", "b"), ("c",)]
