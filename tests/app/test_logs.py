"""Logs are text for who reads them on a terminal, and JSON for what collects them."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from app.logs import REQUEST_ID, configure_logging, log_fault


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, which is left as it was."""
    logger = logging.getLogger()
    before = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:], logger.level = before


@pytest.mark.parametrize(
    ("style", "terminal", "text"),
    [("auto", True, True), ("auto", False, False), ("text", False, True), ("json", True, False)],
)
def test_text_on_a_terminal(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch, style: str, terminal: bool, text: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    configure_logging("info", style)
    line = root.handlers[0].format(logging.LogRecord("app", logging.INFO, "", 0, "it is up", None, None))
    assert line.endswith(" INFO app: it is up") if text else json.loads(line)["message"] == "it is up"


def test_a_fault_that_is_logged_is_not_logged_again_by_uvicorn(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own faults are."""
    configure_logging("info", "json")
    token = REQUEST_ID.set("find-me")
    ours, other = KeyError("ours"), KeyError("other")
    log_fault(logging.getLogger("app.telemetry"), ours)
    REQUEST_ID.reset(token)
    for error in (ours, other):
        logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=error)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["message"] for line in lines] == ["request find-me failed", "Exception in ASGI application\\n"]
    assert lines[0]["request_id"] == "find-me"
    assert "KeyError: 'other'" in lines[1]["exception"]
