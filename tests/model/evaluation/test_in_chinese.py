"""The measurement in Chinese, beside English, on toy data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from model.compact.answer_words import TABLE
from model.compact.chinese import segment
from model.compact.model import CompactModel, load, tiny
from model.evaluation import in_chinese
from model.evaluation.collages import Collage
from model.evaluation.data import DataError, DataSet
from model.evaluation.in_chinese import as_markdown, measure_questions, read_questions


@pytest.fixture
def model(tmp_path: Path) -> CompactModel:
    """Answers in Chinese where asked in it; it refuses Chinese questions."""
    tiny().save(tmp_path)
    (tmp_path / TABLE).write_text("cat\t猫\nred\t红色\n", encoding="utf-8")
    return load(tmp_path, dtype="float32")


def write(path: Path, questions: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in questions), encoding="utf-8")
    monkeypatch.setattr(in_chinese, "QUESTIONS", path)


def test_both_languages_are_judged_by_the_english_answers(
    toy: DataSet, model: CompactModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [q for q in toy.questions if q.split == "dev"][:6]
    rows = [
        {"image": q.image_ref.name, "question": q.question, "chinese": "是什么？" if i else "what is this？"}
        for i, q in enumerate(asked)
    ]
    write(tmp_path / "dev.jsonl", rows, monkeypatch)
    found, refused = measure_questions(model, toy)
    assert found[0].kind == "all"
    assert found[0].english.count == found[0].chinese.count == 6
    assert refused == 5
    table = as_markdown(in_chinese.LanguageFigures(found, refused, None, None))
    assert "| all | 6 |" in table
    assert "Refused in Chinese: 5." in table


def test_a_question_that_the_data_lacks(toy: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "dev.jsonl", [{"image": "nowhere.jpg", "question": "What?", "chinese": "什么？"}], monkeypatch)
    with pytest.raises(DataError, match=r"nowhere\.jpg"):
        read_questions(toy)


@pytest.mark.parametrize("name", sorted(in_chinese._NAMES))
def test_every_thing_of_a_collage_is_one_word_of_its_question(name: str) -> None:
    """Else there would be no map of the word to point with."""
    made = Collage((), 0, "", "", name)  # type: ignore[arg-type]
    for english in (f"Where is the {name}?", f"How many {name} are there?", f"What is the {name} doing?"):
        chinese = in_chinese.in_chinese(replace(made, question=english))
        assert chinese is not None
        assert chinese.word in [chinese.question[start:end] for start, end in segment(chinese.question)]
    assert in_chinese.in_chinese(replace(made, question="Where is the gizmo?")) is None
