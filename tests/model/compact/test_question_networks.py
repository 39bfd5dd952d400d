"""Questions through ONNX Runtime: states, vectors, fits and maps are those of PyTorch and its autograd."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from model.compact import image_networks
from model.compact.answers import logits_of
from model.compact.model import CompactImage, CompactModel, tiny
from model.compact.question_networks import Asked, OnnxQuestions
from model.compact.text_encoder import pad_ids
from model.evaluation.map_controls import with_shuffled_attention
from model.interface import Item, MapRequest, TextOutput
from tests.model.tools import QUESTIONS, ask, encode, noise

KINDS: list[Any] = [None, "raw", "gradient", "rollout"]
ROUNDING = {"raw": 5e-4, "rollout": 5e-4, "gradient": 5e-3}
"""Of squared maps: where a token looks at one key alone, both gradient maps are off by 1e-3 and more from float64."""
TEXTS = ["what is the cat?", "how many dogs are there in this?", "red"]


@pytest.fixture(scope="module")
def both() -> tuple[CompactModel, CompactModel]:
    """The same weights by ONNX Runtime and by PyTorch, with the same features of images; what *yes* is read from is
    louder than at birth, where it is nothing."""
    torch.manual_seed(3)
    found = []
    for dtype in ("float32", "torch"):
        model = tiny(dtype=dtype)
        found.append(model)
    for name, parameter in found[1].net.head.named_parameters():
        if name.startswith(("yes_from_fit", "evidence", "gates", "yes_from_objects", "read_hues")):
            torch.nn.init.normal_(parameter, std=0.5)
    for model in found:
        model.net.config = replace(model.net.config, temperatures={"count": 2.0})
    found[0].net.load_state_dict(found[1].net.state_dict())
    found[0].use_dtype("float32")
    return found[0], found[1]


def images_of(model: CompactModel) -> list[CompactImage]:
    images = encode(model, noise(1), noise(2))
    assert all(isinstance(image, CompactImage) for image in images)
    return images  # type: ignore[return-value]


def test_text_and_fusion_are_pytorchs(both: tuple[CompactModel, CompactModel]) -> None:
    model = both[0]
    questions, (first, second) = model.questions, images_of(model)
    assert isinstance(questions, OnnxQuestions)
    ids, mask = pad_ids([model.tokenize(text).ids for text in TEXTS])
    images = [(first.state, 2), (second.state, 1)]
    choices, temperatures = model._space.choices(None), torch.tensor([1.0, 0.5, 2.0])
    asked = [
        Asked(state, rows, choices, own, torch.zeros(rows))
        for (state, rows), own in zip(images, (temperatures[:2], temperatures[2:]), strict=True)
    ]
    with torch.no_grad():
        states = model.net.text(ids, mask)
        expected = model.net.fuse_states(states, mask, images, need_maps=True)
        logits = logits_of(expected.vector, choices, temperatures)
    torch.testing.assert_close(questions.text(ids, mask), states, atol=1e-5, rtol=1e-5)
    found = questions.fuse(states, mask, asked, need_maps=True)
    torch.testing.assert_close(found.fused.vector, expected.vector, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found.fused.fit, expected.fit, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.fused.maps, expected.maps, atol=1e-5, rtol=1e-5)
    assert [each.shape[0] for each in found.logits if each is not None] == [2, 1]
    torch.testing.assert_close(torch.cat(found.logits), logits, atol=1e-4, rtol=1e-5)  # type: ignore[arg-type]
    assert questions.fuse(states, mask, asked).fused.maps == []


def squares(text: TextOutput) -> np.ndarray:
    """All maps as rows, squared: near 0 a root makes much of rounding."""
    maps = [*(token.map for token in text.tokens), text.answer_map]
    return np.stack([found.values.ravel() for found in maps if found is not None]) ** 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("candidates", [None, ("a cat", "red", "the dog"), ("dog",)])
@pytest.mark.parametrize("layers", [(0, 1), (1,)])
def test_answers_and_maps_are_pytorchs(
    both: tuple[CompactModel, CompactModel], kind: Any, candidates: Any, layers: Any
) -> None:
    maps = None if kind is None else MapRequest(kind, layers)
    found, expected = (
        model.run("answer", [Item(image, tuple(TEXTS), candidates, maps=maps) for image in images_of(model)])
        for model in both
    )
    for one, other in zip(found, expected, strict=True):
        assert not isinstance(one, Exception)
        assert not isinstance(other, Exception)
        for text, wanted in zip(one.texts, other.texts, strict=True):
            assert [x.answer for x in text.ranking] == [x.answer for x in wanted.ranking]
            np.testing.assert_allclose([x.score for x in text.ranking], [x.score for x in wanted.ranking], atol=1e-4)
            if maps is not None:
                np.testing.assert_allclose(squares(text), squares(wanted), atol=ROUNDING[kind], rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_matches_and_their_maps_are_pytorchs(both: tuple[CompactModel, CompactModel], kind: Any) -> None:
    found, expected = (ask(model, images_of(model)[0], *TEXTS, task="match", maps=MapRequest(kind)) for model in both)
    for text, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(text.ranking[0].score, wanted.ranking[0].score, atol=1e-4)
        np.testing.assert_allclose(squares(text), squares(wanted), atol=ROUNDING[kind], rtol=1e-3)


def test_a_copy_has_its_own_weights(both: tuple[CompactModel, CompactModel]) -> None:
    """As the control of maps is made: copied after its first answer, then changed."""
    found = []
    for model in both:
        ask(model, images_of(model)[0], TEXTS[0], maps=MapRequest("gradient"))
        shuffled = with_shuffled_attention(model)
        assert isinstance(shuffled, CompactModel)
        (text,) = ask(shuffled, images_of(shuffled)[0], TEXTS[0], maps=MapRequest("raw"))
        found.append(squares(text))
    np.testing.assert_allclose(found[0], found[1], atol=ROUNDING["raw"])
    (text,) = ask(both[0], images_of(both[0])[0], TEXTS[0], maps=MapRequest("raw"))
    assert np.abs(found[0] - squares(text)).max() > 5e-3


def test_a_kernel_that_is_asked_for_is_used(both: tuple[CompactModel, CompactModel], monkeypatch: Any) -> None:
    model = both[0]
    monkeypatch.setattr(OnnxQuestions, "fuse", lambda *_args, **_options: pytest.fail("not asked for"))
    model.use_kernel("reference")
    try:
        ask(model, images_of(model)[0], QUESTIONS[0])
    finally:
        model.use_kernel("auto")


def test_a_blind_model_and_one_without_the_runtime_ask_pytorch(monkeypatch: Any) -> None:
    model = tiny(dtype="float32")
    blind = CompactModel(
        type(model.net)(replace(model.net.config, blind=True), vocabulary=len(model.vocabulary), answers=8),
        model.vocabulary,
        model.answers,
        id="blind",
        revision="0",
        detector=model.detector,
        dtype="float32",
    )
    assert blind.questions is None
    monkeypatch.setattr(image_networks, "has_runtime", lambda: False)
    model.use_dtype("auto")
    assert model.questions is None
    (image,) = encode(model, noise())
    assert ask(model, image, TEXTS[0])[0].ranking
