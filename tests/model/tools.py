"""What the tests of the compact model share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from model.compact.model import CompactModel
from model.interface import EncodedImage, Item, ItemError, Output, TextOutput

QUESTIONS = ("What is this?", "How many cats are there in this?", "is it red")


def noise(seed: int = 0, width: int = 90, height: int = 50) -> Image.Image:
    """A random image: no two cells are alike."""
    values = np.random.default_rng(seed).integers(0, 256, (height // 5, width // 5, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.NEAREST)


def encode(model: CompactModel, *images: Image.Image) -> list[EncodedImage]:
    """The images, encoded in one batch."""
    return model.encode([model.info.preprocess(image) for image in images])


def run(model: CompactModel, *items: Item, task: Any = "answer") -> list[Output]:
    """Run items of which none may fail."""
    outputs = model.run(task, items)
    assert not any(isinstance(output, ItemError) for output in outputs), outputs
    return outputs  # type: ignore[return-value]


def ask(
    model: CompactModel, image: EncodedImage, *texts: str, task: Any = "answer", **options: Any
) -> tuple[TextOutput, ...]:
    """One item, and what came of its texts."""
    return run(model, Item(image, texts, **options), task=task)[0].texts


def scores(output: TextOutput) -> dict[str, float]:
    """Answer -> score."""
    return {ranked.answer: ranked.score for ranked in output.ranking}


def near(found: TextOutput, expected: TextOutput, tolerance: float = 1e-5) -> None:
    """Equal answers, scores and maps."""
    assert [r.answer for r in found.ranking] == [r.answer for r in expected.ranking]
    for one, other in zip(found.ranking, expected.ranking, strict=True):
        assert one.score == pytest.approx(other.score, abs=tolerance)
    assert (found.answer_map is None) == (expected.answer_map is None)
    assert [(t.text, t.span) for t in found.tokens] == [(t.text, t.span) for t in expected.tokens]
    assert found.words == expected.words
    for one, other in zip(found.tokens, expected.tokens, strict=True):
        assert one.map is not None
        assert other.map is not None
        np.testing.assert_allclose(one.map.values, other.map.values, atol=tolerance)
    if found.answer_map is not None and expected.answer_map is not None:
        np.testing.assert_allclose(found.answer_map.values, expected.answer_map.values, atol=tolerance)
