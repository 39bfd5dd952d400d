"""The tables of docs/operations.md, from the code: ``python -m docs.make_operations docs/operations.md`` rewrites them.

A table stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; everything else on the page is written by
hand. `tests/docs/test_operations.py` fails when a table has drifted.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic_core import PydanticUndefined

from app import choices, connections
from app.conversation import messages
from app.engine.engine import Engine
from app.intake import bodies, decode
from app.metrics import Metrics
from app.routes import health, metrics
from app.settings import Settings
from crosslook.errors import CODES
from model.compact.reading import lines

_BLOCK = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in lines)


def settings() -> str:
    """Every setting: variable, default, meaning."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.default_factory() if field.default_factory else field.default  # type: ignore[call-arg]
        if default is PydanticUndefined:
            raise TypeError(f"{name} has no default")
        shown = (
            "(none)"
            if default in (None, "", [])
            else str(default).lower()
            if default is True or default is False
            else str(default)
        )
        rows.append((f"`CROSSLOOK_{name.upper()}`", shown, field.description or ""))
    return _table(("variable", "default", "meaning"), rows)


def codes() -> str:
    """Every error code: status, whether trying again helps, meaning."""
    rows = [(f"`{name}`", str(code.status), "yes" if code.retry else "", code.meaning) for name, code in CODES.items()]
    return _table(("code", "status", "`Retry-After`", "meaning"), rows)


def metric_families() -> list[tuple[str, str, tuple[str, ...], str]]:
    """Name, type, labels and meaning of every metric of crosslook's own."""
    made = Metrics()
    made.watch(Engine(Settings(_env_file=None)))
    found = []
    for family in made.registry.collect():
        if family.name.startswith("crosslook_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            collector = made.registry._names_to_collectors.get(name)
            labels = tuple(getattr(collector, "_labelnames", ()))
            found.append((name, family.type, labels, family.documentation))
    return found


def figures() -> str:
    """Every metric: name, type, labels, meaning."""
    rows = [
        (f"`{name}`", kind, ", ".join(f"`{label}`" for label in labels), meaning)
        for name, kind, labels, meaning in metric_families()
    ]
    return _table(("metric", "type", "labels", "meaning"), rows)


def probes() -> str:
    """Every route that needs no key."""
    rows = []
    for router in (health.router, metrics.router):
        for route in router.routes:
            if not getattr(route, "include_in_schema", True):
                continue  # HEAD, of which there is nothing to say
            summary = getattr(route, "summary", "")
            text = " ".join((getattr(route, "description", "") or "").split())
            rows.append((f"`GET {getattr(route, 'path', '')}`", summary, text))
    return _table(("route", "question", "answer"), rows)


def limits() -> str:
    """Every bound on what a client may send or leave waiting, and what it protects from. Those of settings have their
    names, the rest are constants."""

    def setting(*names: str) -> str:
        return ", ".join(f"`CROSSLOOK_{name.upper()}` ({Settings.model_fields[name].default})" for name in names)

    rows = [
        ("connections at once", setting("connections"), "descriptors taken by connections that do nothing"),
        ("a head's time", setting("header_seconds"), "connections that begin a request and do not go on"),
        ("URL", f"{connections.URL_BYTES} bytes", "memory and time of the parser, before any key is asked for"),
        ("header lines, trailers", f"{connections.HEAD_FIELDS}, {connections.HEAD_BYTES} bytes", "the same"),
        ("requests ahead of answers", str(connections.PIPELINED), "thousands of requests in one packet"),
        (
            "reading an answer",
            f"{connections.LEAST_READ} bytes a second over {setting('write_seconds')}",
            "answers that nobody reads, and that stay in memory",
        ),
        (
            "answers not read yet, together",
            f"{connections.MOST_UNREAD} bytes: then who has most of them is hung up on",
            "many clients that read just fast enough",
        ),
        ("body", setting("body_bytes", "request_seconds"), "memory, and bodies that do not arrive"),
        ("all bodies together", setting("queue_bytes"), "many large bodies at once"),
        (
            "values in JSON",
            f"{bodies.MOST_VALUES} commas, {bodies.MOST_NAMES} names an object, {bodies.MOST_ESCAPES} escapes",
            "small bodies that become many objects; one error in place of thousands",
        ),
        ("fields of multipart", f"{bodies.MOST_PARTS}, each of {bodies.MOST_PARAMETERS} parameters", "the same"),
        (
            "a conversation",
            f"{messages.MOST_MESSAGES} messages, {messages.MOST_PARTS} parts in one, "
            f"{2 * messages.MOST_MESSAGES} parts in all, {choices.LARGEST} characters of a format",
            "the same, and answers as long as what was sent",
        ),
        ("names and messages in errors", "100 and 1000 characters", "errors as long as what was sent"),
        ("questions", setting("questions", "question_characters"), "calls of the model that take too long"),
        ("candidates", "200 of 200 characters; 200 characters cost as a question", "the same"),
        ("image", setting("image_bytes", "image_pixels", "image_side"), "decoders' time and memory"),
        (
            "large images",
            f"one at a time, or one for every four cores; large: 1/{decode.LARGE_SHARE} of the pixels in memory",
            "the same, and images of others that would wait",
        ),
        (
            "text read in an image",
            f"{lines.MOST_LINES} lines, the tallest",
            "an image full of text, which would keep a worker busy",
        ),
        ("image URL", setting("url_seconds", "url_redirects"), "hosts that are slow or send in circles"),
        ("queue", setting("queue_items", "queue_seconds"), "waiting for an answer that would come too late"),
        ("rate of a key", setting("rate_per_minute"), "a caller that takes what is there for all"),
        ("silence of a worker at work", setting("worker_seconds"), "a model that hangs"),
        ("work that nobody waits for", "ends at the model's next step", "long calls for clients that are gone"),
    ]
    return _table(("of what", "limit (default)", "protects from"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "limits": limits,
    "settings": settings,
    "codes": codes,
    "metrics": figures,
    "probes": probes,
}


def render(page: str) -> str:
    """The page with its tables made anew."""
    return _BLOCK.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], page)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")
