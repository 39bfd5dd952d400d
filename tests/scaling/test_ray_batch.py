"""A file of requests on Ray Data, on a real Ray of this machine."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.app.servers import ROOT
from tests.fakes.model import LOADER
from tests.scaling.local_ray import brightness
from tests.scaling.made import made_image

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("ray", "pyarrow", "pandas"))), reason="needs the extra ray-data"
    ),
]
LINES = 150  # in two blocks and a part

PROGRAM = f"""
import sys
from pathlib import Path
from app import batch, ray_batch
from app.settings import Settings

source, target = map(Path, sys.argv[1:])
arguments = batch.Arguments(source, target, url=None, concurrency=16, ray=2)
sys.exit(ray_batch.main(Settings(_env_file=None), arguments, loader=sys.stdin.read().strip() or {LOADER!r}))
"""


def run(source: Path, target: Path, loader: str = "") -> subprocess.CompletedProcess[str]:
    """The command on two actors, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(source), str(target)]
    return subprocess.run(
        command, cwd=source.parent, env=environment, input=loader, capture_output=True, text=True, check=False
    )


def test_a_file_is_answered_by_actors_and_gone_on_with(tmp_path: Path) -> None:
    """Every line once, each right, also an image by its path; what was answered before is not asked again."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    (tmp_path / "zero.png").write_bytes(made_image(0))
    images = ["zero.png", *(base64.b64encode(made_image(n)).decode() for n in range(1, LINES))]
    bodies = [{"image": image, "questions": ["how bright?"], "maps": "none"} for image in images]
    bodies.append({"image": "zero.png", "questions": [""]})
    source.write_text("\n".join(json.dumps({"custom_id": str(n), "body": body}) for n, body in enumerate(bodies)))
    done = run(source, target)
    assert done.returncode == 1, done.stderr[-3000:]  # one is refused
    assert f"{LINES + 1} answered now, 0 before, 1 with errors" in done.stderr
    found = {line["custom_id"]: line["response"] for line in map(json.loads, target.read_text().splitlines())}
    assert len(found) == len(target.read_text().splitlines()) == LINES + 1
    assert found.pop(str(LINES))["body"]["error"]["code"] == "question_empty"
    answers = {int(name): response["body"]["results"][0]["answer"] for name, response in found.items()}
    assert answers == {number: brightness(number) for number in range(LINES)}
    kept = target.read_text().splitlines(keepends=True)[:100]
    target.write_text("".join(kept))
    again = run(source, target)
    assert f"{LINES - 99} answered now, 100 before" in again.stderr
    assert target.read_text().startswith("".join(kept))


def test_a_model_that_cannot_be_loaded_ends_it(tmp_path: Path) -> None:
    """With a message, and no line of output."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"image": "", "questions": ["?"]}))
    done = run(source, target, "tests.fakes.model:fail")
    assert done.returncode == 2
    assert "no weights here" in done.stderr
    assert target.read_text() == ""
