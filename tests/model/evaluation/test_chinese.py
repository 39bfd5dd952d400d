"""The Chinese translations: none is missing, and all are Chinese."""

from __future__ import annotations

import json
import re
from pathlib import Path

import model.evaluation.data as data
from model.compact.answer_words import TABLE
from model.compact.model import EMBEDDED, load

_CLASSES = Path(data.__file__).parents[1] / "training" / "coco_classes.json"

FOLDER = Path(data.__file__).with_name("chinese")
_CHINESE = re.compile(r"[\u4e00-\u9fff]")


def table(name: str, folder: Path = FOLDER) -> dict[str, str]:
    rows = [line.split("\t") for line in (folder / name).read_text("utf-8").splitlines()]
    return {row[0]: row[1] for row in rows}


def test_every_answer_and_every_object_has_its_word() -> None:
    answers = load(dtype="float32").answers
    assert list(table(TABLE, EMBEDDED)) == answers
    assert list(table("objects.tsv")) == json.loads(_CLASSES.read_text("utf-8"))["classes"]
    words = [*table(TABLE, EMBEDDED).items(), *table("objects.tsv").items()]
    assert [e for e, chinese in words if not _CHINESE.search(chinese) and chinese not in (e, "Wii")] == []


def test_300_questions_of_dev_and_none_of_the_seal() -> None:
    rows = [json.loads(line) for line in (FOLDER / "dev.jsonl").read_text("utf-8").splitlines()]
    assert len({(row["image"], row["question"]) for row in rows}) == 300
    assert all(_CHINESE.search(row["chinese"]) and row["chinese"].endswith("？") for row in rows)
    assert all(row["answer"] and row["answer_chinese"] for row in rows)
    assert not any(data.is_sealed(row["image"]) for row in rows)
