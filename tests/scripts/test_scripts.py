"""The scripts: they parse, and `need` installs when it must and only then."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.app.servers import ROOT

SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file())


@pytest.mark.parametrize("path", [*SCRIPTS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_it_is_a_shell_script_that_parses(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert path.name.startswith("_") or os.access(path, os.X_OK)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose only dependency is itself, so that installing it takes seconds and no network."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "_env.sh", tmp_path / "scripts")
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    (tmp_path / "constraints.txt").write_text("")
    (tmp_path / "scripts" / "go").write_text('source "$(dirname "$0")/_env.sh"\nneed "$1"\n')
    # pip's part is played by a script that notes what it was asked: what it really does, every other test rests on.
    note = 'import sys, pathlib; pathlib.Path("asked").open("a").write(" ".join(sys.argv[1:]) + "\\n")'
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").write_text("")
    (tmp_path / "pip" / "__main__.py").write_text(note)
    return tmp_path


def go(checkout: Path, extras: str) -> list[str]:
    """Run ``need``; returns what pip was asked for in all runs so far."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHON": sys.executable}
    subprocess.run(["bash", "scripts/go", extras], cwd=checkout, env=environment, check=True, capture_output=True)
    asked = checkout / "asked"
    return [line.split()[-1] for line in asked.read_text().splitlines() if "-e" in line] if asked.exists() else []


@pytest.mark.long  # makes two virtual environments
def test_an_environment_is_filled_once_and_again_when_it_is_stale(checkout: Path) -> None:
    assert go(checkout, "server") == [".[server]"]
    assert go(checkout, "server") == [".[server]"]
    assert go(checkout, "server,dev") == [".[server]", ".[dev]"]
    assert (checkout / ".venv" / "bin" / "crosslook-server").read_text().endswith('-m app.cli "$@"\n')
    (checkout / "constraints.txt").write_text("changed==1\n")
    assert go(checkout, "server,dev") == [".[server]", ".[dev]", ".[server,dev]"]
    shutil.rmtree(checkout / ".venv")
    assert go(checkout, "dev")[-1] == ".[dev]"
