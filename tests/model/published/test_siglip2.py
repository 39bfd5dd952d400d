"""SigLIP 2: Gemma's tokenizer, lowered, and padding on the side that the folder says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.interface import Item, MapRequest
from model.published.loading import load
from tests.model.published.checkpoints import image_processor, make_image, save_siglip2

TEXTS = ("a photo of the Red CAT", "two dogs", "it")


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_case_are_those_of_training(tmp_path: Path, side: str) -> None:
    """Against transformers' own model, given lower-cased ids padded by hand."""
    theirs = save_siglip2(tmp_path, padding_side=side)
    ours = load(tmp_path, id="siglip2")
    image = make_image(70, 50)
    encoded = ours.encode([ours.info.preprocess(image)])[0]
    maps = MapRequest()
    found = ours.run("match", [Item(encoded, TEXTS, maps=maps)])[0].texts  # type: ignore[union-attr]

    plain = [ours.tokenizer.hub._tokenizer.encode(text.lower()).ids for text in TEXTS]
    assert [ours.tokenizer(text).ids for text in TEXTS] == plain
    assert len({len(ids) for ids in plain}) == 3
    rest = [[0] * (32 - len(ids)) for ids in plain]
    rows = [fill + ids if side == "left" else ids + fill for ids, fill in zip(plain, rest, strict=True)]
    processor = image_processor("Siglip", size={"height": 48, "width": 48})
    with torch.no_grad():
        result = theirs(**processor(image, return_tensors="pt"), input_ids=torch.tensor(rows))
        states = theirs.text_model(input_ids=torch.tensor(rows)).last_hidden_state
        parts = F.normalize(theirs.text_model.head(states), dim=-1)
    assert [text.fit for text in found] == pytest.approx(result.logits_per_image[0].sigmoid().tolist(), abs=1e-5)
    for row, text in enumerate(found):  # each token's map is its own, not that of padding
        first = len(rest[row]) if side == "left" else 0
        for place, token in enumerate(text.tokens):
            cosines = (parts[row, first + place] @ encoded.patches.T).reshape(3, 3)  # type: ignore[attr-defined]
            np.testing.assert_allclose(token.map.values, cosines.numpy(), atol=1e-5)  # type: ignore[union-attr]
    assert [TEXTS[0][slice(*token.span)] for token in found[0].tokens if token.span][-3:] == ["C", "A", "T"]


def test_the_side_matters(tmp_path: Path) -> None:
    fits = []
    for side in ("left", "right"):
        (tmp_path / side).mkdir()
        save_siglip2(tmp_path / side, padding_side=side)
        ours = load(tmp_path / side, id="siglip2")
        encoded = ours.encode([ours.info.preprocess(make_image(70, 50))])[0]
        fits.append(ours.run("match", [Item(encoded, ("a cat",))])[0].texts[0].fit)  # type: ignore[union-attr]
    assert abs(fits[0] - fits[1]) > 1e-3
