"""A stranger's own questions: one command fine-tunes a model on them and raises its accuracy."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.cli import main as server
from model.compact import tiny

COLORS = {"red": (200, 30, 30), "blue": (30, 30, 200)}


def write_questions(folder: Path, count: int) -> None:
    """Noisy images of one of two colours, in a folder beside their records, as docs/data.md says."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for number in range(count):
        color = list(COLORS)[number % 2]
        pixels = np.clip(rng.normal(COLORS[color], 15, (48, 64, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        split = "dev" if number >= count * 2 // 3 else "train"
        lines.append({"image": f"{number}.png", "question": "what color is it", "answers": [color], "split": split})
    (folder / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def dev_accuracy(data: Path, model: Path, report: Path) -> float:
    arguments = ["eval", "--data", str(data), "--model", str(model), "--threads", "1", "--out", str(report)]
    assert server(arguments) == 0
    (row,) = json.loads(report.with_suffix(".json").read_text())["rows"]
    return float(row["accuracy"]["model"]["mean"])


def test_fine_tuning_raises_the_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, start, run = tmp_path / "data", tmp_path / "start", tmp_path / "run"
    write_questions(data, 90)
    tiny().save(start)
    before = dev_accuracy(data, start, tmp_path / "before.md")
    arguments = ["train", "--data", str(data), "--from", str(start), "--out", str(run), "--threads", "1"]
    assert server([*arguments, "--steps", "180", "--images", "8", "--rows", "1", "--learning-rate", "0.01"]) == 0
    after = dev_accuracy(data, run / "model", tmp_path / "after.md")
    assert before <= 0.5
    assert after >= 0.8, "the commonest answer alone gets 0.5"
