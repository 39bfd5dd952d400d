"""Clients whose requirements differ from ours, or that are npm's: each is installed, at a known version, into a place
of its own, asks a real server about a real image, streamed and not, and says what it heard."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.app.servers import ROOT

HERE = Path(__file__).parent
PYTHON = ("litellm==1.110.2", "llama-index-llms-openai-like==0.8.1")
NPM = (
    "@ai-sdk/openai@4.0.118",
    "@ai-sdk/openai-compatible@3.0.92",
    "@huggingface/inference@4.13.30",
    "ai@7.0.173",
    "openai@7.59.0",
)
# Nothing of the machine's, and nothing fetched: litellm asks GitHub for prices unless told not to.
ENVIRONMENT = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1"}


def run(command: list[str], folder: Path) -> str:
    """The output of a command, which must succeed."""
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def snippets(language: str, url: str) -> list[str]:
    """The blocks of docs/clients.md in this language, about this server's model and the red image."""
    page = (ROOT / "docs" / "clients.md").read_text("utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```$", page, re.M | re.S)
    changes = {
        "http://127.0.0.1:8080": url,
        "compact'": "colours'",
        'compact"': 'colours"',
        "examples/cat.jpg": "red.png",
    }
    for old, new in changes.items():
        found = [code.replace(old, new) for code in found]
    return found


@pytest.mark.long
def test_litellm_and_llama_index(url: str, red: bytes, tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(red)
    venv.create(tmp_path / "venv", with_pip=True, symlinks=True)
    python = str(tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PYTHON], tmp_path)
    script = str(HERE / "ask_from_python.py")
    heard = json.loads(run([python, script, url, "red.png", "What colour is it?", "colours"], tmp_path))
    assert set(heard) == {
        "litellm",
        "litellm, streamed",
        "litellm responses",
        "llama-index",
        "llama-index, streamed",
    }
    assert set(heard.values()) == {"red"}, heard
    shown = snippets("py", url)
    assert len(shown) == 2
    for code in shown:
        assert run([python, "-c", code], tmp_path).split()[:1] == ["red"], code


@pytest.mark.long
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_openai_vercel_and_hugging_face_of_npm(url: str, red: bytes, tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(red)
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *NPM], tmp_path)
    shutil.copy(HERE / "ask_from_node.mjs", tmp_path / "ask.mjs")  # node looks for packages beside the script
    heard = json.loads(run(["node", "ask.mjs", url, "red.png", "What colour is it?", "colours"], tmp_path))
    for name in (
        "openai chat",
        "openai responses",
        "ai, chat",
        "ai, responses",
        "ai, compatible",
        "hub chatCompletion",
    ):
        assert {name, f"{name}, streamed"} <= set(heard)
    assert {"hub visualQuestionAnswering", "hub zeroShotImageClassification"} <= set(heard)
    assert set(heard.values()) == {"red"}, heard
    shown = snippets("mjs", url)
    assert len(shown) == 3
    for code in shown:
        (tmp_path / "shown.mjs").write_text(code, encoding="utf-8")
        assert run(["node", "shown.mjs"], tmp_path).split()[:1] == ["red"], code
