"""What is learned when all else is: matching, from captions, and *yes* from *no*."""

from __future__ import annotations

import random
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.compact.model import CompactModel, load, tiny
from model.evaluation.data import Captions, DataSet, Question, read_data
from model.training.features import FeatureCache, load_features
from model.training.match_fit import fit_match
from model.training.tasks import Example
from model.training.texts import TextCache
from model.training.tuning import fit_temperatures, set_temperatures, tune_logits
from model.training.yes_no_fit import fit_yes_no
from tests.fakes import colour_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Images of one colour each, with some noise: an untrained vision network tells them apart."""
    folder = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(colour_model, "square", plain)
        colour_model.write_toy_data(folder, 120)
    return read_data(folder)


def plain(colour: str, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(-40, 40, (64, 64, 3))
    return Image.fromarray((np.array(colour_model.COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def features(data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return load_features(data, tiny(), tmp_path_factory.mktemp("features"), CPU)


def fits(model: CompactModel, data: DataSet, captions: Sequence[Captions]) -> list[tuple[bool, float]]:
    """Whether a caption names the image's colour, and how likely it fits; every image against three captions."""
    found = []
    for record in captions:
        (image,) = model.encode([model.info.preprocess(data.open_image(record.image_ref))])
        state = image.state  # type: ignore[attr-defined]
        for caption in ("A red dog on grey.", "A green ball on grey.", "A blue car on grey."):
            ids, mask = TextCache(model.net.text, model.tokenizer, CPU).take([caption])
            fit = model.net.fuse_states(ids, mask, [(state, 1)]).fit
            found.append((caption in record.captions, float(fit.sigmoid())))
    return found


@pytest.fixture(scope="module")
def matched(data: DataSet, features: FeatureCache) -> CompactModel:
    model = tiny()
    model.net.config = replace(model.net.config, matches=False)
    texts = TextCache(model.net.text, model.tokenizer, CPU)
    fit_match(model, [record for record in data.captions if record.split == "train"], features, texts, steps=150)
    return model


def test_captions_teach_which_texts_fit(matched: CompactModel, data: DataSet) -> None:
    """On images that it has not seen, the right colour fits better and is told likely, the wrong ones not; an untrained
    model knows nothing of it."""
    dev = [record for record in data.captions if record.split == "dev"][:30]
    assert matched.net.config.matches
    found = fits(matched, data, dev)
    right = sum(max(part, key=lambda one: one[1])[0] for part in (found[i : i + 3] for i in range(0, len(found), 3)))
    assert right >= 24, f"{right} of 30"
    own, others = ([fit for its_own, fit in found if its_own == which] for which in (True, False))
    assert sum(own) / len(own) > 0.5 > sum(others) / len(others)
    new = fits(tiny(), data, dev)
    before = sum(max(part, key=lambda one: one[1])[0] for part in (new[i : i + 3] for i in range(0, len(new), 3)))
    assert before < 24


def test_nothing_else_is_changed_and_it_is_stored(matched: CompactModel, tmp_path: Path) -> None:
    before = tiny().net.state_dict()
    for name, value in matched.net.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("matching."), name
    matched.save(tmp_path)
    assert "match" in load(tmp_path).info.tasks
    assert not any(parameter.requires_grad for parameter in matched.net.matching.parameters())


def test_matching_needs_images_to_keep_back(data: DataSet, features: FeatureCache) -> None:
    model = tiny()
    before = model.net.matching.place.weight.clone()
    fit_match(model, data.captions[:12], features, TextCache(model.net.text, model.tokenizer, CPU), steps=2)
    assert torch.equal(model.net.matching.place.weight, before)


def test_the_same_seed_gives_the_same_matching(data: DataSet, features: FeatureCache) -> None:
    found = []
    for seed in (1, 1, 2):
        model = tiny()
        texts = TextCache(model.net.text, model.tokenizer, CPU)
        torch.manual_seed(len(found))
        fit_match(model, data.captions, features, texts, steps=3, seed=seed)
        found.append(model.net.matching.text.weight.clone())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def asked(data: DataSet, count: int) -> list[tuple[Question, Example]]:
    """Questions about *dog* are answered yes, about *cat* no; the others by no yes and no no."""
    rng, pairs = random.Random(0), []
    for question in (data.questions * 9)[:count]:
        thing = rng.choice(("dog", "cat"))
        pairs.append((question, Example(f"is there a {thing} in this", {"yes" if thing == "dog" else "no": 0.9})))
        pairs.append((question, Example("what color is it", {"red": 1.0})))
    return pairs


@torch.no_grad()
def logits(model: CompactModel, data: DataSet, texts: Sequence[str]) -> torch.Tensor:
    (image,) = model.encode([model.info.preprocess(data.open_image(data.image_refs[0]))])
    states, mask = TextCache(model.net.text, model.tokenizer, CPU).take(texts)
    return model.net.logits(model.net.fuse_states(states, mask, [(image.state, len(texts))]).vector)  # type: ignore[attr-defined]


def test_yes_is_told_from_no_and_the_rest_stays(data: DataSet, features: FeatureCache) -> None:
    model, texts = tiny(), ["is there a dog in this", "is there a cat in this"]
    before = logits(model, data, texts)
    fit_yes_no(model, asked(data, 300), features, rounds=300)
    after = logits(model, data, texts)
    assert after[0, 0] - after[0, 1] > 0.5
    assert after[1, 1] - after[1, 0] > 0.5
    torch.testing.assert_close(after[:, 2:], before[:, 2:])
    for vectors in (model.net.head.answers, model.net.head.free, model.net.head.bias):
        assert torch.equal(vectors[0], vectors[1]), "their own vectors no longer tell them apart"
    assert not model.net.head.yes_from_text[-1].weight.requires_grad


def test_yes_relies_on_the_fit_where_that_tells_it(
    data: DataSet, features: FeatureCache, matched: CompactModel
) -> None:
    """The same question of all images, answered yes where they are red, and no objects: only how well it fits can
    tell."""
    plain_parts = {name: rows for name, rows in features.parts.items() if name in ("fine", "coarse", "meaning")}
    red = [ref for ref in data.image_refs if int(ref.name.split(".")[0]) % 3 == 0]
    by_ref = {question.image_ref: question for question in data.questions}
    text = "A red dog on grey."
    pairs = [(question, Example(text, {"yes" if ref in red else "no": 1.0})) for ref, question in by_ref.items()] * 3
    model, right = deepcopy(matched), 0
    yes = model.net.config.meaning_dim + model.net.config.free_dim
    fit_yes_no(model, pairs, FeatureCache(plain_parts, features.index), rounds=600)
    for ref in list(by_ref)[:60]:
        (image,) = model.encode([model.info.preprocess(data.open_image(ref))])
        states, mask = TextCache(model.net.text, model.tokenizer, CPU).take([text])
        state = image.state._replace(objects=None)  # type: ignore[attr-defined]
        yes_score = model.net.fuse_states(states, mask, [(state, 1)]).vector[0, yes]
        right += bool(yes_score > 0) == (ref in red)
    assert right >= 48, f"{right} of 60"


def test_a_few_yes_no_questions_change_nothing(data: DataSet, features: FeatureCache) -> None:
    model = tiny()
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    fit_yes_no(model, asked(data, 60), features)
    for name, value in model.net.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_temperature_of_yes_and_no_says_how_often_they_are_right(data: DataSet, features: FeatureCache) -> None:
    model = tiny()
    asked = [(question, Example(question.question, {})) for question in data.questions if question.kind == "yes/no"]
    questions, logits = tune_logits(model, asked, features)
    yes, no = (model.answers.index(answer) for answer in ("yes", "no"))
    said = ["yes" if row[yes] > row[no] else "no" for row in logits]

    def fitted(wrong: int) -> float | None:
        """With one answer in so many that is wrong."""
        pairs = []
        for i, (question, answer) in enumerate(zip(questions, said, strict=True)):
            true = {"yes": "no", "no": "yes"}[answer] if i % wrong == 0 else answer
            pairs.append((replace(question, answers=(true,)), Example(question.question, {})))
        return fit_temperatures(model, pairs, features)[2]

    mostly, half = fitted(1000), fitted(2)
    assert mostly is not None
    assert half is not None
    assert mostly < half
    assert fit_temperatures(model, asked[:20], features)[2] is None


def test_a_kind_with_too_few_questions_keeps_its_temperature(data: DataSet, features: FeatureCache) -> None:
    model = tiny()
    model.net.config = replace(model.net.config, temperatures={"yes/no": 1.5, "other": 1.75}, yes_no_temperature=2.5)
    colours = [(question, Example(question.question, {})) for question in data.questions if question.kind != "yes/no"]
    set_temperatures(model, [(replace(q, question="What color is it?"), answer) for q, answer in colours], features)
    after = model.net.config
    assert after.temperatures.keys() == {"yes/no", "other", "colour"}
    assert (after.temperatures["yes/no"], after.temperatures["other"], after.yes_no_temperature) == (1.5, 1.75, 2.5)
    set_temperatures(model, colours[:20], features)
    assert model.net.config == after
