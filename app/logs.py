"""What a log line looks like, in the server and in its workers. Imports nothing that a worker would have to load."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from typing import Any

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")
"""Of the request that a task works for."""

_NOTE = "in request "


def printable(text: str) -> str:
    """``text`` with everything escaped that is not printed: line breaks forge lines, escapes take over terminals, and
    some characters turn the direction of reading."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "surrogatepass").decode() for each in text
    )


class TextFormatter(logging.Formatter):
    """One line per record; the lines of a traceback are indented, so that none of them passes for a record."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """The line of a record, its message made `printable`."""
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """A traceback with every line indented and made `printable`."""
        return "\n".join(f"  | {printable(line)}" for line in super().formatException(ei).split("\n"))


class JSONFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message and what ``extra`` holds of a request."""

    _FIELDS = ("request_id", "method", "path", "status", "code", "key", "milliseconds")

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        entry: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": printable(record.getMessage()),
        }
        for name in self._FIELDS:
            value = getattr(record, name, None)
            if value is not None:
                entry[name] = printable(value) if isinstance(value, str) else value
        if record.exc_info:
            entry["exception"] = "\n".join(map(printable, self.formatException(record.exc_info).split("\n")))
        return json.dumps(entry, ensure_ascii=False)


def log_fault(logger: logging.Logger, error: BaseException) -> None:
    """Log a fault of the program in the work for a request, with its traceback; once, though each of the tasks that it
    passes through may tell of it. A note on the error remembers that, and for whom: requests of one batch may share
    it."""
    note = _NOTE + REQUEST_ID.get()
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
        extra = {"request_id": REQUEST_ID.get()}
        logger.error("request %s failed", REQUEST_ID.get(), exc_info=error, extra=extra)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a record tells of something else than a fault that `log_fault` has logged."""
    error = record.exc_info[1] if record.exc_info else None
    return not any(note.startswith(_NOTE) for note in getattr(error, "__notes__", ()))


def configure_logging(level: str, style: str) -> None:
    """Send all logs to stderr in one style: ``text``, ``json``, or ``auto``, which is text on a terminal."""
    handler = logging.StreamHandler()
    as_text = sys.stderr.isatty() if style == "auto" else style == "text"
    handler.setFormatter(TextFormatter() if as_text else JSONFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("uvicorn.access").disabled = True  # ours has the request id
    logging.getLogger("uvicorn.error").addFilter(_is_news)  # it logs what a response breaks off with
