"""Every family that answers runs in the halves that GPUs use, in which some of its parts stay in float32."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from model.interface import Generation, Item, MapRequest, Output
from model.published.loading import load
from tests.model.published.checkpoints import make_image
from tests.model.published.test_served_families import SAVERS

QUESTION = "what is the color of the cat?"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", SAVERS)
def test_it_runs_in_half_precision(name: str, dtype: str, tmp_path: Path) -> None:
    """Written, ranked, and with maps that still sum to 1."""
    ours = load(SAVERS[name](tmp_path), id=name, dtype=dtype)
    [image] = ours.encode([ours.info.preprocess(make_image(90, 50))])
    asked = {"maps": MapRequest("raw"), "generation": Generation(max_new_tokens=4)}
    candidates = ("cat", "yes", "no")
    items = [Item(image, (QUESTION, "a dog"), **asked), Item(image, (QUESTION,), candidates=candidates, **asked)]  # type: ignore[arg-type]
    for output in ours.run("answer", items):
        assert isinstance(output, Output)
        for text in output.texts:
            assert all(math.isfinite(ranked.score) for ranked in text.ranking)
            assert text.answer_map is not None
            for found in (text.answer_map, *(token.map for token in (*text.tokens, *text.answer_tokens))):
                assert found is not None
                assert np.sum(found.values) + found.elsewhere == pytest.approx(1.0, abs=0.02)
