"""Made questions say what the boxes say, and teach maps the box of what they name."""

import random

import numpy as np
import pytest

from model.compact.colours import COLOURS
from model.training.made_questions import CLASSES, Found, QuestionMaker, count_together, likely

DOG, CAR = CLASSES.index("dog"), CLASSES.index("car")


def scene() -> Found:
    """One red car at the left, three dogs, and a doubtful cat."""
    objects = np.zeros((32, 6), np.float32)
    objects[0] = [CAR, 0.8, 0.0, 0.3, 0.3, 0.7]
    for i, left in enumerate((0.4, 0.6, 0.8)):
        objects[1 + i] = [DOG, 0.7, left, 0.5, left + 0.15, 0.8]
    objects[4] = [CLASSES.index("cat"), 0.2, 0.5, 0.1, 0.6, 0.2]
    colours = np.zeros((32, 11), np.float32)
    colours[0, COLOURS.index("red")] = 1
    colours[1:, COLOURS.index("brown")] = 1
    return Found(objects, colours)


def test_answers_follow_from_the_boxes() -> None:
    found = scene()
    maker = QuestionMaker(count_together(found.objects[None]))
    rng, seen = random.Random(0), set()
    for _ in range(400):
        example = maker.draw(found, frozenset(), rng)
        assert example is not None
        answer = max(example.targets, key=example.targets.__getitem__)
        assert sum(example.targets.values()) == pytest.approx(1)
        assert "{" not in example.text
        if "cat" in example.text:
            assert example.targets.keys() == {"yes", "no"}, "what is doubtful has both answers"
            assert 0.4 < example.targets["yes"] < 0.6
            assert example.word is None, "and teaches no map"
            seen.add("doubtful")
            continue
        if "how many" not in example.text.lower() and "number" not in example.text:
            assert example.targets[answer] == 1
        if example.word is not None and example.boxes is not None:
            word = example.text[slice(*example.word)]
            assert word
            if word in ("dog", "dogs"):
                assert len(example.boxes) == 3
                assert answer in ("yes", "3") or example.counted is None
            if word == "car" and example.text.lower().startswith(("what color", "what colour")):
                assert answer == "red"
                seen.add("colour")
            if word in ("car", "cars") and "on the left or right" in example.text:
                assert answer == "left"
            if not example.boxes:
                assert answer in ("no", "0")
                assert example.counted == (1,)
                seen.add("absent")
            seen.add(answer)
    assert seen >= {"yes", "no", "3", "red", "colour", "absent", "doubtful"}


def test_what_scores_say_of_a_number() -> None:
    assert likely(np.array([0.9, 0.9], np.float32))[:3] == pytest.approx((0, 0, 1), abs=0.03)
    doubtful = likely(np.array([0.3, 0.9], np.float32))
    assert sum(doubtful) == pytest.approx(1)
    assert doubtful[0] == pytest.approx(0, abs=0.01)
    assert 0.4 < doubtful[1] < 0.6
    assert likely(np.zeros(4, np.float32))[0] > 0.9
    assert likely(np.full(40, 0.95, np.float32))[10] == pytest.approx(1, abs=0.03), "as many as can be told apart"


def test_wordings_are_held_out() -> None:
    together = count_together(scene().objects[None])
    asked, kept = QuestionMaker(together), QuestionMaker(together, held_out=True)
    for kind in ("presence", "count", "colour"):
        assert not set(asked.wordings[kind]) & set(kept.wordings[kind])
