"""Examples made from captions are true of the image, as far as its captions tell."""

import random
import re

import pytest

from model.evaluation.data import Captions, ImageRef, Question, Statement
from model.training.tasks import MATCH_PROMPT, CaptionTasks, Example, question_examples

DOGS = Captions(
    ImageRef("toy.tar", "dogs"),
    ("Two brown dogs are running in the snow.", "The dogs in the park play.", "A brown dog is running with a dog."),
    "toy",
    "train",
)
GIRL = Captions(
    ImageRef("toy.tar", "girl"),
    ("A girl in a red dress is jumping on a bed.", "The girl is jumping with a toy.", "A red dress on a girl."),
    "toy",
    "train",
)
_KNOWN = "yes no 2 3 brown red running jumping dog dogs girl dress snow bed park blue"
ANSWERS = frozenset(_KNOWN.split())


@pytest.fixture(scope="module")
def tasks() -> CaptionTasks:
    return CaptionTasks(ANSWERS, [DOGS, GIRL] * 12)


def examples(tasks: CaptionTasks, record: Captions) -> list[Example]:
    return [tasks.draw(record, random.Random(seed)) for seed in range(600)]


def plain(caption: str) -> str:
    return caption.lower().rstrip(" .")


@pytest.mark.parametrize("record", [DOGS, GIRL], ids=["dogs", "girl"])
def test_every_example_is_true(tasks: CaptionTasks, record: Captions) -> None:
    captions = {plain(caption) for caption in record.captions}
    words = set(re.findall(r"\w+", " ".join(captions)))
    kinds = set()
    for example in examples(tasks, record):
        (answer,) = example.targets
        assert example.targets[answer] == 1.0
        assert answer in ANSWERS
        if example.text.startswith(MATCH_PROMPT):
            kinds.add(f"statement {answer}")
            assert (example.text.removeprefix(MATCH_PROMPT) in captions) == (answer == "yes")
        elif "[MASK]" in example.text:
            kinds.add("mask")
            word = {"2": "two"}.get(answer, answer)
            assert example.text.replace("[MASK]", word) in captions
        elif answer in ("yes", "no"):
            kinds.add(f"is there {answer}")
            noun = re.findall(r"there (?:an?|any) (\w+)", example.text)[0]
            assert (noun in words) == (answer == "yes")
        else:
            kinds.add("question")
            assert {"2": "two"}.get(answer, answer) in words, "the answer is in the image's captions"
    assert kinds >= {"statement yes", "statement no", "mask", "is there yes", "is there no", "question"}


def test_what_is_asked_of_a_caption(tasks: CaptionTasks) -> None:
    asked = {(example.text.lower().rstrip("?"), next(iter(example.targets))) for example in examples(tasks, DOGS)}
    assert ("what color are the dogs", "brown") in asked
    assert ("how many dogs are there", "2") in asked
    assert ("what are the dogs doing", "running") in asked


@pytest.mark.parametrize(
    ("caption", "text", "targets"),
    [
        ("A girl holding a big blue toy stands there.", "What is the girl holding?", {"toy": 1.0}),
        ("Two dogs run in the snow.", "Where are the dogs?", {"snow": 1.0}),
        ("A dog swims in the cold water.", "Where is the dog?", {"water": 0.6, "in water": 0.4}),
        ("The girl is riding down a hill.", None, {}),
        ("A dog playing in the water.", "Where is the dog?", {"water": 0.6, "in water": 0.4}),
        ("A girl near a dog in the park.", "Where is the girl?", {"park": 1.0}),
    ],
)
def test_what_somebody_has_and_where_things_are(caption: str, text: str | None, targets: dict[str, float]) -> None:
    record = Captions(ImageRef("toy.tar", "one"), (caption,), "toy", "train")
    tasks = CaptionTasks(ANSWERS | {"toy", "water", "in water"}, [DOGS, GIRL] * 12)
    asked = [example for example in examples(tasks, record) if example.text.startswith(("What is the", "Where"))]
    asked = [example for example in asked if not example.text.endswith(("doing?", "taken?", "this?"))]
    assert all((example.text, example.targets) == (text, targets) for example in asked), asked
    assert bool(asked) == (text is not None)


def test_drawing_is_repeatable(tasks: CaptionTasks) -> None:
    assert examples(tasks, GIRL)[:50] == examples(tasks, GIRL)[:50]


def test_questions_keep_their_answers_and_statements_become_questions() -> None:
    ref = ImageRef("toy.tar", "a")
    question = Question(ref, "How many?", ("two", "two", "two", "3"), "vqa-v2", "train", "number")
    statement = Statement(ref, "The cat is on the mat.", False, "vsr", "train")
    found = question_examples([question], [statement])
    targets = {"2": pytest.approx(0.75), "3": pytest.approx(0.25)}
    assert found[0] == (question, Example("How many?", targets, weight=3.0))  # people's counts are few
    assert [example.text for _, example in found[1:]] == [
        "Is the cat on the mat?",
        f"{MATCH_PROMPT}The cat is on the mat.",
    ]
    assert all(example.targets == {"no": 1.0} for _, example in found[1:])
