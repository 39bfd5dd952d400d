"""A stranger's own questions: the commands of docs/data.md fine-tune the embedded model on them, and it learns."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.cli import main as server
from tests.app.servers import ROOT

PARTS = {"left": (184, 115, 51), "right": (112, 128, 144)}  # copper, steel


def write_questions(folder: Path, count: int) -> None:
    """Photographs of parts, and the box that each goes into: something that no model can know beforehand."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for number in range(count):
        box = list(PARTS)[number % 2]
        pixels = rng.normal(200, 12, (96, 128, 3))
        top, left = rng.integers(8, 40), rng.integers(8, 60)
        pixels[top : top + 44, left : left + 56] = rng.normal(PARTS[box], 15, (44, 56, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / "images" / f"part-{number:02}.png")
        record = {"image": f"part-{number:02}.png", "question": "Which box does this part go into?", "answers": [box]}
        lines.append(record | {"split": "dev" if number >= count * 2 // 3 else "train"})
    (folder / "shop.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def documented() -> list[str]:
    """The commands of the worked example, in their order."""
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    section = page.split("## Fine-tuning on your own questions")[1].split("\n## ")[0]
    return re.findall(r"^ +((?:scripts/train|crosslook-server) .*)$", section, re.M)


def run(command: str) -> None:
    program, *arguments = shlex.split(command)
    if program == "scripts/train":  # hands all that it is given to the server's command
        assert 'crosslook-server" train "$@"' in (ROOT / "scripts" / "train").read_text()
        arguments = ["train", *arguments]
    assert server(arguments) == 0, command


def accuracy(printed: str) -> float:
    (line,) = [line for line in printed.splitlines() if line.startswith("| shop | all |")]
    return float(line.split("|")[4].split("[")[0])


def test_the_worked_example_raises_the_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_questions(tmp_path / "my-data", 72)
    look, train, look_again, serve = documented()
    assert "--from compact" in train, "from the embedded weights"
    run(look)
    before = accuracy(capsys.readouterr().out)
    run(train)
    capsys.readouterr()
    run(look_again)
    after = accuracy(capsys.readouterr().out)
    assert before <= 65, "half of the parts go left"
    assert after >= 85
    assert serve.endswith(" --model runs/shop/model")
    figures = json.loads((tmp_path / "runs" / "shop" / "log.jsonl").read_text().splitlines()[-1])
    assert figures["step"] == int(re.findall(r"--steps (\d+)", train)[0])
