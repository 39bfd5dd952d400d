"""Logs are text for who reads them on a terminal, and JSON for what collects them."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from app.logs import configure_logging


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
