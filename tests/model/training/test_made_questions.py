"""Made questions say what the boxes say, and teach maps the box of what they name."""

import random

import numpy as np

from model.compact.colours import COLOURS
from model.training.made_questions import CLASSES, Found, QuestionMaker, count_together

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
        ((answer, share),) = example.targets.items()
        assert share == 1
        assert "{" not in example.text
        assert "cat" not in example.text.split(), "nothing is asked of what is doubtful"
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
                assert example.counted == 0
                seen.add("absent")
            seen.add(answer)
    assert seen >= {"yes", "no", "3", "red", "colour", "absent"}


def test_wordings_are_held_out() -> None:
    together = count_together(scene().objects[None])
    asked, kept = QuestionMaker(together), QuestionMaker(together, held_out=True)
    for kind in ("presence", "count", "colour"):
        assert not set(asked.wordings[kind]) & set(kept.wordings[kind])
