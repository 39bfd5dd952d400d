"""Yes/no questions made from other questions: "What color is the bus?", answered *red*, becomes "Is the bus red?".

People ask yes/no questions about the same things as open questions, but too rarely for a model to learn to look before
it says yes. The wrong answer that makes a *no* is taken from another question of the same form, so the wording alone
gives nothing away.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence

from model.evaluation.data import ImageRef, Question
from model.evaluation.judging import Kind
from model.training.tasks import Asked, Example

_TURNS = 2  # yes/no questions made of each that can be
_PEOPLE = "man|woman|boy|girl|person|child|kid|lady|guy|baby|dog|cat|player|people|men|women|animal|bear|bird|horse"
# What is asked, and how it is asked back: {0}, {1} are the question's own words, {a} the answer with its article,
# {w} the answer as it is.
_FORMS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"what (?:color|colour) (?:is|are) (?:the|this|these|his|her|their|that) ([\w ]+)", ("Is the {0} {w}?",)),
    (r"what is the (?:color|colour) of the (\w+)", ("Is the {0} {w}?", "Is there a {w} {0}?")),
    (r"(?:what|which) (animal|fruit|food|vegetable|vehicle|bird|kind of \w+|type of \w+) is (?:this|that|it|shown).*",
     ("Is this {a}?", "Is there {a} in the picture?")),
    (r"what (?:room|place) (?:is this|are they in|is it)", ("Is this {a}?",)),
    (r"what (?:sport|game) (?:is this|is being played|are they playing|is he playing|is she playing|is shown).*",
     ("Are they playing {w}?", "Is this {w}?")),
    (rf"what (?:is|are) the ({_PEOPLE}) doing", ("Is the {0} {w}?",)),
    (rf"what (?:is|are) the ({_PEOPLE}) (holding|riding|wearing|eating|sitting on|carrying|standing on|using)",
     ("Is the {0} {1} {a}?", "Is anyone {1} {a}?")),
    (r"what is (on|in|under|behind|next to|near|above) the ([\w ]+)", ("Is there {a} {0} the {1}?",)),
    (r"how many ([\w ]+?) (?:are there|are in .*|can you see.*|are shown|do you see.*|are visible.*)",
     ("Are there {w} {0}?",)),
    (r"what is the (\w+) made (?:of|from)", ("Is the {0} made of {w}?",)),
    (r"(?:what|which) (?:is|are) (?:this|that|these|in the (?:picture|photo|image)|shown here|pictured)",
     ("Is this {a}?", "Is there {a} in the picture?")),
    (r"what (?:time of day|season|meal) (?:is it|is this).*", ("Is it {w}?",)),
    (r"what (?:is|are) .*", ("Is there {a} in the picture?", "Is there {a}?", "Do you see {a}?")),
)  # fmt: skip
_PATTERNS = tuple((re.compile(pattern + r"\s*\?*"), wordings) for pattern, wordings in _FORMS)
_NO_ARTICLE = "water snow grass sand wood food skiing surfing tennis baseball soccer metal glass"
_MASS = frozenset(_NO_ARTICLE.split())
_NOT_TURNED = ("yes", "no", "none", "nothing", "unknown", "0")


class YesNoRewriter:
    """Turns questions with an open answer into yes/no ones. ``pairs``: all (question, answer, kind) to learn from; they
    are where the wrong answers come from."""

    def __init__(self, pairs: Iterable[tuple[str, str, Kind]]) -> None:
        self._answers: dict[int, list[str]] = {}
        for question, answer, kind in pairs:
            found = self._match(question, answer, kind)
            if found is not None:
                self._answers.setdefault(found[0], []).append(answer)

    def turn(self, question: str, answer: str, kind: Kind, rng: random.Random) -> Example | None:
        """A yes/no question about what ``question`` asks, or None where it has no form that is known."""
        found = self._match(question, answer, kind)
        if found is None:
            return None
        index, words = found
        truth = rng.random() < 0.5
        asked = answer
        if not truth:
            others = [other for other in rng.choices(self._answers[index], k=6) if not _alike(other, answer)]
            if not others:
                return None
            asked = others[0]
        wording = rng.choice(_PATTERNS[index][1])
        text = wording.format(*words, w=asked, a=_with_article(asked))
        if text.startswith("Is the ") and " are " in question.lower():
            text = f"Are {text[3:]}"
        return Example(text, {"yes" if truth else "no": 1.0})

    @staticmethod
    def _match(question: str, answer: str, kind: Kind) -> tuple[int, tuple[str, ...]] | None:
        if kind == "yes/no" or (kind == "number") != answer.isdigit() or answer in _NOT_TURNED:
            return None
        text = question.strip().lower()
        for index, (pattern, _) in enumerate(_PATTERNS):
            match = pattern.fullmatch(text)
            if match is not None:
                return index, match.groups()
        return None


def _alike(one: str, other: str) -> bool:
    """Whether two answers may both be right: one holds a word of the other, in singular or plural."""
    a, b = ({word.removesuffix("s") for word in text.split()} for text in (one, other))
    return bool(a & b)


def _with_article(answer: str) -> str:
    plain = answer in _MASS or answer.endswith(("s", "ing")) or " " in answer
    return answer if plain else f"an {answer}" if answer[0] in "aeiou" else f"a {answer}"


def asked_by_image(pairs: Sequence[tuple[Question, Example]], answers: set[str], daquar_weight: float) -> list[Asked]:
    """Those of the questions that have one of the ``answers``, by image, and yes/no questions made from them."""
    best = [(question, max(example.targets, key=example.targets.get)) for question, example in pairs if example.targets]  # type: ignore[arg-type]
    turner = YesNoRewriter((question.question, answer, question.kind) for question, answer in best)
    turned: dict[ImageRef, list[Example]] = {}
    for question, answer in best:
        for number in range(_TURNS):
            rng = random.Random(f"{question.question}/{number}")  # noqa: S311
            found = turner.turn(question.question, answer, question.kind, rng)
            if found is not None:
                turned.setdefault(question.image_ref, []).append(found)
    by_image: dict[ImageRef, list[Example]] = {}
    weights: dict[ImageRef, float] = {}
    for question, example in pairs:
        if any(answer in answers for answer, share in example.targets.items() if share > 0):
            by_image.setdefault(question.image_ref, []).append(example)
            weights[question.image_ref] = daquar_weight if question.source == "daquar" else 1.0
    return [Asked(ref, examples, turned.get(ref, []), weights[ref]) for ref, examples in by_image.items()]
