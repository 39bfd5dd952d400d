"""Which machine a figure comes from, and where figures are kept."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def describe_machine() -> str:
    """Processor, cores that may be used, memory, operating system, Python and the libraries that do the work."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [f"{_processor()}, {cores} cores"]
    if hasattr(os, "sysconf"):
        parts.append(f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB memory")
    parts += [f"{platform.system()} {platform.machine()}", f"Python {platform.python_version()}"]
    for package in ("torch", "onnxruntime", "pillow"):
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def load_average() -> str:
    """How busy the machine was, since a figure from a busy machine is worth less."""
    return f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; every column but the first is numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def append_result(name: str, title: str, text: str) -> Path:
    """Append a dated entry to ``benchmarks/results/NAME.md``, made with a heading where it is new."""
    path = RESULTS / f"{name}.md"
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        path.write_text(f"# {title}\n\nNewest last; each entry says which machine it ran on.\n", encoding="utf-8")
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n## {day}\n\n{text}")
    return path
