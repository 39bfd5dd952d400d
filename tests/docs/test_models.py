"""The family of docs/models.md is run as it stands there, and the page names every family that can be loaded."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model.interface import Item, ItemError, MapRequest, Output
from model.published.loading import FAMILIES

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def colours() -> Any:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    page = ModuleType("page")
    sys.modules["page"] = page  # dataclasses look their module up
    try:
        exec(compile(code, "docs/models.md", "exec"), page.__dict__)  # noqa: S102 - our own page
        yield page.Colours()
    finally:
        del sys.modules["page"]


def halves(model: Any) -> Any:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (80, 40), (255, 0, 0))
    image.paste((0, 0, 255), (40, 0, 80, 40))
    return model.encode([model.info.preprocess(image)])[0]


def test_the_example_answers_and_every_word_has_its_map(colours: Any) -> None:
    (output,) = colours.run("answer", [Item(halves(colours), ("the red part", "Blue?"), maps=MapRequest())])
    assert isinstance(output, Output)
    assert output.maps is not None
    assert (output.maps.kind, output.maps.layers) == ("raw", (0,))
    red, blue = output.texts
    assert (red.ranking[0].answer, blue.ranking[0].answer) == ("red", "blue")
    assert [word.text for word in red.words] == ["the", "red", "part"]
    for token in (*red.tokens, *blue.tokens):
        assert token.map is not None
        assert token.map.values.sum() + token.map.elsewhere == pytest.approx(1.0)
    assert red.tokens[1].map.values[:, :2].sum() > 0.99  # type: ignore[union-attr]
    assert blue.tokens[0].map.values[:, 2:].sum() > 0.99  # type: ignore[union-attr]
    np.testing.assert_allclose(red.tokens[0].map.values, 1 / 16)  # type: ignore[union-attr]


def test_the_example_has_the_rules_of_all_families(colours: Any) -> None:
    image = halves(colours)
    plain, empty, gradient = colours.run(
        "answer", [Item(image, ("red",)), Item(image, ("red", "?")), Item(image, ("red",), maps=MapRequest("gradient"))]
    )
    assert isinstance(plain, Output)
    assert plain.texts[0].answer_map is None
    assert isinstance(empty, ItemError)
    assert (empty.code, empty.index) == ("question_empty", 1)
    assert isinstance(gradient, ItemError)
    assert gradient.code == "map_not_supported"


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_page_names_every_family(model_type: str) -> None:
    module = importlib.import_module(FAMILIES[model_type])
    assert model_type == module.MODEL_TYPE
    for architecture in module.ARCHITECTURES:
        assert f"| `{model_type}`, `{architecture}` |" in PAGE
