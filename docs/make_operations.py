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

from app.engine.engine import Engine
from app.metrics import Metrics
from app.routes import health, metrics
from app.settings import Settings
from crosslook.errors import CODES

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


def figures() -> str:
    """Every metric: name, type, labels, meaning."""
    made = Metrics()
    made.watch(Engine(Settings(_env_file=None)))
    rows = []
    for family in made.registry.collect():
        if not family.name.startswith("crosslook_"):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        collector = made.registry._names_to_collectors.get(name)
        labels = ", ".join(f"`{label}`" for label in getattr(collector, "_labelnames", ()))
        rows.append((f"`{name}`", family.type, labels, family.documentation))
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


TABLES: dict[str, Callable[[], str]] = {"settings": settings, "codes": codes, "metrics": figures, "probes": probes}


def render(page: str) -> str:
    """The page with its tables made anew."""
    return _BLOCK.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], page)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")
