"""Scores: temperatures, and what *yes* and *no* share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.compact.model import tiny
from model.interface import MapRequest
from model.question_kinds import question_kind
from tests.model.tools import QUESTIONS, ask, encode, noise, scores


def test_the_temperature_flattens_scores_and_keeps_their_order() -> None:
    model = tiny()
    (image,) = encode(model, noise())
    (sharp,) = ask(model, image, QUESTIONS[0], top_k=8)
    model.net.config = replace(model.net.config, temperature=2.0)
    (flat,) = ask(model, image, QUESTIONS[0], top_k=8)
    assert list(scores(flat)) == list(scores(sharp))
    (short,) = ask(model, image, QUESTIONS[0], top_k=3)
    assert short.rest == pytest.approx(1 - sum(r.score for r in flat.ranking[:3]), abs=1e-6)
    logits = np.log([r.score for r in sharp.ranking]) / 2
    assert [r.score for r in flat.ranking] == pytest.approx(list(np.exp(logits) / np.exp(logits).sum()), rel=1e-4)


def test_a_kind_of_question_has_its_temperature() -> None:
    """In one call with questions of other kinds, with and without maps, and where patches are masked."""
    model = tiny()
    (image,) = encode(model, noise())
    texts = ("what colour is it", "is it red", "what is this")
    before = ask(model, image, *texts, top_k=8)
    model.net.config = replace(model.net.config, temperatures={"colour": 2.0, "yes/no": 0.5})
    for maps in (None, MapRequest("gradient")):
        after = ask(model, image, *texts, top_k=8, maps=maps)
        for temperature, old, new in zip((2.0, 0.5, 1.0), before, after, strict=True):
            logits = np.log([r.score for r in old.ranking]) / temperature
            assert list(scores(new)) == list(scores(old)), "the order is never changed"
            wanted = list(np.exp(logits) / np.exp(logits).sum())
            assert [r.score for r in new.ranking] == pytest.approx(wanted, rel=1e-3, abs=1e-6)
    best = after[0].ranking[0]
    (masked,) = model.score_masked(image, texts[0], np.ones((1, 4, 4), np.bool_), best.answer)
    assert masked == pytest.approx(best.score, rel=1e-3)


def test_yes_and_no_share_the_score_where_one_of_them_is_asked_for() -> None:
    model = tiny()
    (image,) = encode(model, noise())
    texts = ("is it red", "what is this")
    before = ask(model, image, *texts, top_k=8, maps=MapRequest("gradient"))
    model.net.config = replace(model.net.config, temperatures={"yes/no": 0.5}, yes_no_temperature=2.0)
    after = ask(model, image, *texts, top_k=8)
    assert scores(after[1]) == scores(before[1])
    odds = np.log(scores(before[0])["yes"]) - np.log(scores(before[0])["no"])
    assert scores(after[0])["yes"] == pytest.approx(1 / (1 + np.exp(-odds / 2)), abs=1e-3)
    assert sum(scores(after[0])[answer] for answer in ("yes", "no")) > 0.999
    (chosen,) = ask(model, image, texts[0], candidates=("no", "yes"))
    assert scores(chosen)["yes"] == pytest.approx(1 / (1 + np.exp(-odds / 2)), rel=1e-3)
    best = after[0].ranking[0]
    (masked,) = model.score_masked(image, texts[0], np.ones((1, 4, 4), np.bool_), best.answer)
    assert masked == pytest.approx(best.score, rel=1e-3)


@pytest.mark.parametrize(
    "offered", [("yes", "no", "blue"), ("yes", "no", "unsure"), ("yes", "Yes", "blue"), ("yes", "blue")]
)
def test_yes_and_no_share_nothing_where_another_answer_was_offered(offered: tuple[str, ...]) -> None:
    model = tiny()
    (image,) = encode(model, noise())
    (before,) = ask(model, image, "is it red", candidates=offered)
    model.net.config = replace(model.net.config, yes_no_temperature=2.0)
    (after,) = ask(model, image, "is it red", candidates=offered)
    assert scores(after) == scores(before)


@pytest.mark.parametrize("dtype", ["float32", "torch"])
def test_a_map_tells_the_answer_that_is_shown_from_all_others(dtype: str) -> None:
    """Also where another one has the highest logit, and *yes* and *no* share the score."""
    model = tiny(dtype=dtype)
    (image,) = encode(model, noise())
    texts, bias = ("is it red", "what is this"), model.net.head.bias

    def answered(shares: float | None) -> tuple[list[str], np.ndarray]:
        model.net.config = replace(model.net.config, temperatures={"yes/no": 1.25}, yes_no_temperature=shares)
        found = ask(model, image, *texts, maps=MapRequest("gradient"))
        maps = [text.answer_map.values for text in found if text.answer_map is not None]
        return [text.ranking[0].answer for text in found], np.stack(maps)

    bias[model.answers.index("red")] += 10
    highest, of_red = answered(None)
    assert highest == ["red", "red"]
    (shown, other), shared = answered(2.0)
    assert shown in ("yes", "no")
    assert other == "red"
    np.testing.assert_allclose(shared[1], of_red[1], atol=1e-5)
    assert np.abs(shared[0] - of_red[0]).max() > 1e-2
    bias[model.answers.index(shown)] += 100  # as high as can be: its odds change, their gradient does not
    (same, _), expected = answered(None)
    assert same == shown
    np.testing.assert_allclose(shared[0], expected[0], atol=1e-5)


def test_the_temperature_holds_for_candidates_too() -> None:
    """All answers as candidates score as the vocabulary does."""
    model = tiny()
    (image,) = encode(model, noise())
    model.net.config = replace(model.net.config, temperatures={question_kind(QUESTIONS[0]): 2.0})
    (chosen,) = ask(model, image, QUESTIONS[0], top_k=8, candidates=tuple(model.answers))
    (free,) = ask(model, image, QUESTIONS[0], top_k=8)
    assert scores(chosen) == pytest.approx(scores(free), abs=1e-5)
