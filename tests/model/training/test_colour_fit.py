"""Colours, learned when all else is: what stands out where the words look."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.compact.model import CompactModel, load, tiny
from model.evaluation.data import DataSet, Question, read_data
from model.training.colour_fit import fit_colours
from model.training.features import FeatureCache, load_features
from model.training.tasks import Example
from model.training.texts import TextCache
from tests.fakes import colour_model

CPU = torch.device("cpu")
ASKED, OTHER = "what color is the dog", "what is this"
PAIRS = list[tuple[Question, Example]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    folder = tmp_path_factory.mktemp("toy")
    colour_model.write_toy_data(folder, 120)
    return read_data(folder)


@pytest.fixture(scope="module")
def features(data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return load_features(data, tiny(), tmp_path_factory.mktemp("features"), CPU)


def asked(data: DataSet, features: FeatureCache) -> tuple[PAIRS, list[bool]]:
    """Of every image of which more is red than blue, or the other way: a question answered with that colour, and one
    that asks for none; and whether it is red."""
    by_image = {question.image_ref: question for question in data.questions}
    pairs, red = [], []
    for ref, question in by_image.items():
        shares = features.parts["colours"].take([features.index[ref]]).float().mean((0, 1, 2))
        if shares[3] == shares[7]:
            continue
        red.append(bool(shares[3] > shares[7]))
        pairs += [
            (question, Example(ASKED, {"red" if red[-1] else "blue": 1.0})),
            (question, Example(OTHER, {"dog": 1.0})),
        ]
    return pairs, red


@torch.no_grad()
def redness(model: CompactModel, pairs: PAIRS, features: FeatureCache) -> torch.Tensor:
    """How much rather *red* than *blue* ``[images, 2]``, for the question about colours and for the other."""
    states, mask = TextCache(model.net.text, model.tokenizer, CPU).take([ASKED, OTHER])
    found = []
    for question, _ in pairs[::2]:
        seen, meaning = features.take([features.index[question.image_ref]], CPU)
        vector = model.net.fuse_states(states, mask, [(model.net.encode_features(seen, meaning), 2)]).vector
        logits = model.net.logits(vector)
        found.append(logits[:, model.answers.index("red")] - logits[:, model.answers.index("blue")])
    return torch.stack(found)


def test_the_colour_of_what_is_looked_at_is_the_answer(data: DataSet, features: FeatureCache, tmp_path: Path) -> None:
    pairs, red = asked(data, features)
    assert len(red) > 60
    assert 0.2 < sum(red) / len(red) < 0.8
    model = tiny()
    with torch.no_grad():  # as a trained network knows by the wording that a colour is the answer
        model.net.head.bias[[model.answers.index(colour) for colour in ("red", "blue")]] += 8
    before = redness(model, pairs, features)
    rest = {name: value.clone() for name, value in model.net.state_dict().items()}
    fit_colours(model, [*pairs, *pairs], features)
    after = redness(model, pairs, features)
    right = ((after[:, 0] > 0) == torch.tensor(red)).float().mean()
    assert right > 0.9 > ((before[:, 0] > 0) == torch.tensor(red)).float().mean()
    change = (after - before).abs().mean(0)
    assert change[1] < 0.3 * change[0], "a question that asks for no colour hardly hears of it"
    for name, value in model.net.state_dict().items():
        assert torch.equal(value, rest[name]) != name.startswith(("head.read_hues", "head.hue_gate")), name
    model.save(tmp_path)
    again = redness(load(tmp_path), pairs, features)
    assert ((again[:, 0] > 0) == torch.tensor(red)).float().mean() > 0.9, "it is stored"


def test_a_few_questions_about_colours_change_nothing(data: DataSet, features: FeatureCache) -> None:
    model, (pairs, _) = tiny(), asked(data, features)
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    fit_colours(model, pairs[:80], features)
    for name, value in model.net.state_dict().items():
        assert torch.equal(value, before[name]), name
