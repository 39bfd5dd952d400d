"""Every snippet of the README and of docs/clients.md is run, against a real server with the default model."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from crosslook.errors import CODES
from tests.app.servers import ROOT, serving

PAGES = ["README.md", "README.zh-CN.md", "docs/clients.md"]

ELSEWHERE = (
    "bash scripts/serve",
    "bash scripts/test",  # test-long as well
    "bash scripts/check",
    "bash scripts/train",
    "bash scripts/gpu-check",
    "bash scripts/site",
    "docker compose",
    "docker build",
)
"""Commands that start servers, tests or containers: no test runs them inside this suite."""


@dataclass(frozen=True)
class Snippet:
    """A fenced block."""

    page: str
    line: int
    language: str
    code: str


def snippets() -> list[Snippet]:
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text("utf-8")
        for match in re.finditer(r"^```(bash|python|js)\n(.*?)^```$", text, re.M | re.S):
            found.append(Snippet(page, text.count("\n", 0, match.start()) + 1, match[1], match[2]))
    return found


def commands(code: str) -> list[str]:
    """The commands of a block of shell, without comments and continuations."""
    lines = re.sub(r"\\\n", " ", code).splitlines()
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


def is_run_elsewhere(snippet: Snippet) -> bool:
    return snippet.language == "bash" and all(command.startswith(ELSEWHERE) for command in commands(snippet.code))


@pytest.fixture(scope="module")
def default_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The default model, as `scripts/serve` starts it."""
    with serving(tmp_path_factory.mktemp("docs") / "log", loader=None) as server:
        yield server.url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where snippets run: the examples are there and `.venv`, and what they write stays there."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


@pytest.mark.parametrize("snippet", snippets(), ids=lambda snippet: f"{snippet.page}:{snippet.line}")
def test_a_snippet(snippet: Snippet, default_url: str, folder: Path) -> None:
    if is_run_elsewhere(snippet):
        pytest.skip("run elsewhere: " + ", ".join(commands(snippet.code)))
    if snippet.language == "js" and shutil.which("node") is None:
        pytest.skip("node is not installed")
    code = snippet.code.replace("http://127.0.0.1:8080", default_url)
    name = folder / {"bash": "snippet.sh", "python": "snippet.py", "js": "snippet.mjs"}[snippet.language]
    name.write_text(code, "utf-8")
    program = {"bash": "bash", "python": sys.executable, "js": "node"}[snippet.language]
    options = ["-euo", "pipefail"] if program == "bash" else []
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "CROSSLOOK_URL": default_url}
    done = subprocess.run(
        [program, *options, name.name], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = {path.name for path in folder.iterdir()} - {"examples", ".venv", name.name}
    assert done.stdout.strip() or written  # it did something that can be seen
    assert '"error"' not in done.stdout, done.stdout


def test_the_pages_have_their_snippets() -> None:
    """Against a pattern that finds nothing."""
    counts = {page: sum(snippet.page == page for snippet in snippets()) for page in PAGES}
    assert counts["docs/clients.md"] >= 12
    assert counts["README.md"] >= 3
    assert {snippet.language for snippet in snippets()} == {"bash", "python", "js"}


def code_table() -> str:
    rows = ["| status | code | exception | meaning |", "|---|---|---|---|"]
    for name, code in sorted(CODES.items(), key=lambda item: item[1].status):
        again = " *again*" if code.retry else ""
        rows.append(f"| {code.status}{again} | `{name}` | `{code.exception.__name__}` | {code.meaning} |")
    return "\n".join(rows)


def test_the_table_of_codes_is_up_to_date() -> None:
    """To mend it: put the table that this prints in place of the old one."""
    page = (ROOT / "docs/clients.md").read_text("utf-8")
    assert code_table() in page, "\n" + code_table()
