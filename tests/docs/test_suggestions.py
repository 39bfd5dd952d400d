"""What the page suggests to ask of the shipped weights: right answers, with the map on the thing."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from docs.make_suggestions import EXAMPLES, WRITTEN, ask, pool
from model.compact.model import EMBEDDED
from model.registry import load_model


def written(name: str) -> Any:
    """A constant of app/web/suggestions.js."""
    found = re.search(rf"export const {name} = (.*?);\n", WRITTEN.read_text(encoding="utf-8"), re.S)
    assert found is not None
    return json.loads(found[1])


@pytest.mark.skipif(not (EMBEDDED / "model.safetensors").is_file(), reason="there are no weights in weights/compact")
def test_every_suggestion_is_right_and_points_at_the_thing_but_for_the_marked_failure() -> None:
    model = load_model("compact", device="cpu", threads=1)
    assert list(written("SUGGESTIONS")) == list(pool())
    failed = []
    for constant, wording in (("SUGGESTIONS", "question"), ("SUGGESTIONS_ZH", "zh")):
        for name, questions in written(constant).items():
            assert len(questions) >= (2 if wording == "question" else 0)
            rows = {row[wording]: row for row in pool()[name] if wording in row}
            for each in ask(model, name, [rows[question] for question in questions], wording) if questions else []:
                if each.failure:
                    failed.append(f"{name}: {each.question}")
                    assert not each.right
                else:
                    assert each.right, f"{name}: {each.question} is answered {each.answer}"
                    assert each.pointed, f"{name}: {each.question} looks elsewhere"
    assert failed == written("FAILURES") != []


def test_every_example_is_credited_and_has_questions() -> None:
    credits = (EXAMPLES / "CREDITS.md").read_text(encoding="utf-8")
    images = sorted(path.name for path in EXAMPLES.glob("*.jpg"))
    assert sorted(f"{name}.jpg" for name in pool()) == images
    assert all(f"`{image}`" in credits for image in images)
