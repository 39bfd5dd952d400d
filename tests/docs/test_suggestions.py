"""What the page suggests to ask of the shipped weights: right and sure answers, with the outline on the thing."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from docs.make_suggestions import EXAMPLES, WRITTEN, ask, pool, strongest_region
from model.compact.model import EMBEDDED
from model.registry import load_model


def written(name: str) -> Any:
    """A constant of app/web/suggestions.js."""
    found = re.search(rf"export const {name} = (.*?);\n", WRITTEN.read_text(encoding="utf-8"), re.S)
    assert found is not None
    return json.loads(found[1])


@pytest.mark.skipif(not (EMBEDDED / "model.safetensors").is_file(), reason="there are no weights in weights/compact")
def test_every_suggestion_is_right_and_sure_and_points_at_the_thing_but_for_the_marked_failure() -> None:
    model = load_model("compact", device="cpu", threads=1)
    assert list(written("SUGGESTIONS")) == list(pool())
    failed = []
    for constant, wording in (("SUGGESTIONS", "question"), ("SUGGESTIONS_ZH", "zh")):
        for name, questions in written(constant).items():
            assert len(questions) >= 2
            rows = {row[wording]: row for row in pool()[name] if wording in row}
            asked = ask(model, name, [rows[question] for question in questions], wording)
            assert sum(not each.about and not each.failure for each in asked) <= 1, f"{name}: more than one of nothing"
            for each in asked:
                if each.failure:
                    failed.append(f"{name}: {each.question}")
                    assert not each.right
                else:
                    assert each.right, f"{name}: {each.question} is answered {each.answer}"
                    assert each.pointed, f"{name}: {each.question} looks elsewhere"
                    assert each.sure, f"{name}: {each.question} is not sure"
    assert failed == written("FAILURES") != []


def test_the_strongest_region_hangs_together_from_its_peak_down_to_a_half() -> None:
    values = np.zeros((8, 8), np.float32)
    values[2, 2:5] = 0.6, 1.0, 0.5
    values[3, 3], values[6, 6], values[2, 6] = 0.4, 0.9, 0.7
    assert strongest_region(values) == [(2, 3), (2, 2), (2, 4)], "what is weaker, or apart, is not of it"
    assert len(strongest_region(np.ones((8, 8), np.float32))) == 8, "an eighth of the grid at most"


def test_every_example_is_credited_and_has_questions() -> None:
    credits = (EXAMPLES / "CREDITS.md").read_text(encoding="utf-8")
    images = sorted(path.name for path in EXAMPLES.glob("*.jpg"))
    assert sorted(f"{name}.jpg" for name in pool()) == images
    assert all(f"`{image}`" in credits for image in images)
