"""A model that says that it comes on, and is told that it need not."""

from __future__ import annotations

import pytest

from model import progress


def test_steps_are_heard_while_somebody_listens() -> None:
    heard: list[str] = []
    progress.step()
    with progress.listening(lambda: heard.append("outer")):
        progress.step()
        with progress.listening(lambda: heard.append("inner")):
            progress.step()
        progress.step()
    progress.step()
    assert heard == ["outer", "inner", "outer"]


def test_the_listener_of_before_is_back_after_an_abandoned_work() -> None:
    def stop() -> None:
        raise progress.Abandoned

    with pytest.raises(progress.Abandoned), progress.listening(stop):
        progress.step()
    progress.step()


def test_abandoned_is_no_fault_that_one_tries_again() -> None:
    assert not issubclass(progress.Abandoned, Exception)
