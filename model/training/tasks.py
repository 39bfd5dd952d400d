"""What training asks about an image: people's questions as they are, and questions made from captions.

A caption gives, drawn anew each time:

* a masked word: "a [MASK] runs through the grass" -> dog, through the same answer head;
* a statement to judge: the caption itself is true; with one noun, colour or number changed, or of another image, false;
* a question about what it names: is there a ..., what color is the ..., how many ..., what is the ... doing, what is it
  holding (or wearing, riding), where is it.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from model.evaluation.data import Captions, ImageRef, Question, Statement
from model.evaluation.judging import normalise, soft_targets

MATCH_PROMPT = "is this true? "  # before a statement about the image
_COLOR_NAMES = "red blue green yellow black white brown orange pink purple gray grey tan blond"
COLORS = _COLOR_NAMES.split()
_NUMBERS = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
_NOUN = re.compile(
    r"\b(?:a|an|the|his|her|their|two|three|four)\s+(?:\w+\s+)?(\w+)\s+(?:is|are|in|on|with|and|at|of|to)\b"
)
_WHO = r"\b(man|woman|boy|girl|dog|child|person|kid|lady|men|people|dogs|children|boys|girls)\b"
_MANY = frozenset(("men", "people", "dogs", "children", "boys", "girls"))
_WITH = re.compile(  # what somebody has or does something to; the things are the words that follow
    _WHO + r"(?: \w+){0,4}? (wearing|holding|riding|carrying|throwing|catching|eating|playing|sitting on|standing on)"
    r" (?:(?:a|an|the|his|her|their|some|in) )?((?:\w+ ?){1,4})"
)
_AT = re.compile(r"(?: \w+){0,5}? (in|on|at|through|across|along|down) (?:the|a|an|some) ((?:\w+ ?){1,3})")
_SCENE_NAMES = (
    "water snow grass beach street road hill mountain mountains ocean river sidewalk park city sand dirt bridge "
    "kitchen field pool forest woods lake track court yard stage store restaurant outside inside"
)
_THING_NAMES = "tree trees bench couch sofa chair table bed car boat rock rocks wall fence floor room"
_SCENES = frozenset(_SCENE_NAMES.split())
_PLACES = _SCENES.union(_THING_NAMES.split())
_NOT_THINGS = (
    "a an the in on at of to with and is are his her their its it from by as for into while one some who "
    "front next side top middle edge group pair number lot bunch couple air up down sits stands posing front back other"
)
_STOP = frozenset(_NOT_THINGS.split())
_LONGEST_CAPTION = 14  # words; the rest is cut, so that nothing asked for lies behind what training reads
_TRIES = 4
_NUMBER_WEIGHT = 3.0  # of people's counts, beside made ones, whose answers are spread otherwise
_STOCK = 4  # examples that are made from an image's captions
_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True, slots=True)
class Example:
    """One text and what it should be answered: answer -> share. ``word`` are the characters of the word whose map is
    taught, and ``boxes`` (left, top, right, bottom, as shares of the sides) where it should look: none of them,
    nowhere; None: the map is not taught. ``counted``: how likely it is that 0, 1, .. objects are meant, where that is
    known. ``weight``: how much its answer counts beside others'."""

    text: str
    targets: dict[str, float]
    word: tuple[int, int] | None = None
    boxes: tuple[tuple[float, float, float, float], ...] | None = None
    counted: tuple[float, ...] | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Asked:
    """The questions of one image, and how gladly the sampler takes it."""

    ref: ImageRef
    examples: list[Example]
    turned: list[Example] = field(default_factory=list)
    """Yes/no questions made from them."""
    weight: float = 1.0


def question_examples(questions: Iterable[Question], statements: Iterable[Statement]) -> list[tuple[Question, Example]]:
    """People's questions; statements become yes/no questions, each in two wordings."""
    found = []
    for question in questions:
        targets = soft_targets(question.answers, question.source)
        weight = _NUMBER_WEIGHT if question.kind == "number" else 1.0
        found.append((question, Example(question.question, targets, weight=weight)))
    for statement in statements:
        question = statement.as_question()
        answer = {question.answers[0]: 1.0}
        found.append((question, Example(question.question, answer)))
        found.append((question, Example(MATCH_PROMPT + statement.statement, answer)))
    return found


@dataclass
class CaptionTasks:
    """Makes examples from the captions of images. ``answers`` is the vocabulary: only its words are masked or asked."""

    answers: frozenset[str]
    captions: Sequence[Captions]
    nouns: list[str] = field(init=False)

    def __post_init__(self) -> None:
        counts: Counter[str] = Counter()
        for record in self.captions:
            counts.update(noun for caption in record.captions for noun in _NOUN.findall(caption.lower()))
        self.nouns = [
            noun
            for noun, count in counts.most_common()
            if count >= 12 and noun not in _STOP and noun not in COLORS and not noun.endswith("ing")
        ]
        self._noun_set = set(self.nouns)

    def stock(self, record: Captions) -> list[Example]:
        """The examples that training takes of the image, always the same: their texts' features are made once."""
        return [self.draw(record, random.Random(f"{record.image_ref.name}/{n}")) for n in range(_STOCK)]  # noqa: S311

    def draw(self, record: Captions, rng: random.Random) -> Example:
        """One example about the image."""
        kind = rng.random()
        for _ in range(_TRIES):
            caption = _shorten(rng.choice(record.captions))
            if kind < 0.15:
                example = self._masked(caption, rng)
            elif kind < 0.35:
                example = self._statement(record, caption, rng)
            else:
                example = self._question(record, caption, rng)
            if example is not None:
                return example
        return self._masked(caption, rng) or self._statement(record, caption, rng)

    def _masked(self, caption: str, rng: random.Random) -> Example | None:
        words = [match for match in _WORD.finditer(caption) if match.group() not in _STOP]
        words = [match for match in words if _NUMBERS.get(match.group(), match.group()) in self.answers]
        if not words:
            return None
        word = rng.choice(words)
        text = f"{caption[: word.start()]}[MASK]{caption[word.end() :]}"
        return Example(text, {_NUMBERS.get(word.group(), word.group()): 1.0})

    def _statement(self, record: Captions, caption: str, rng: random.Random) -> Example:
        kind = rng.random()
        if kind < 0.5:
            return Example(MATCH_PROMPT + caption, {"yes": 1.0})
        if kind < 0.75:
            changed = self._change_one_word(record, caption, rng)
            if changed:
                return Example(MATCH_PROMPT + changed, {"no": 1.0})
        other = rng.choice(self.captions)
        if other.image_ref == record.image_ref:
            return Example(MATCH_PROMPT + caption, {"yes": 1.0})
        return Example(MATCH_PROMPT + _shorten(rng.choice(other.captions)), {"no": 1.0})

    def _change_one_word(self, record: Captions, caption: str, rng: random.Random) -> str | None:
        said = set(_WORD.findall(" ".join(record.captions).lower()))
        words = list(_WORD.finditer(caption))
        rng.shuffle(words)
        for word in words:
            for group in (COLORS, list(_NUMBERS), self.nouns):
                if word.group() in group:
                    others = [w for w in rng.sample(group, min(8, len(group))) if w not in said]
                    if others:
                        return f"{caption[: word.start()]}{others[0]}{caption[word.end() :]}"
        return None

    def _question(self, record: Captions, caption: str, rng: random.Random) -> Example | None:
        makers = [self._color, self._count, self._doing, self._what, self._has, self._where]
        if rng.random() < 0.3:
            makers = [self._is_there]
        rng.shuffle(makers)
        for make in makers:
            example = make(record, caption, rng)
            if example is not None and self.answers.issuperset(example.targets):
                return example
        return None

    def _color(self, record: Captions, caption: str, rng: random.Random) -> Example | None:
        found = [(c, n) for c, n in re.findall(rf"\b({'|'.join(COLORS)}) (\w+)\b", caption) if n in self._noun_set]
        if not found:
            return None
        color, noun = rng.choice(found)
        verb = "are" if noun.endswith("s") and not noun.endswith("ss") else "is"
        wording = rng.choice(
            (f"What color {verb} the {noun}?", f"what colour {verb} the {noun}", f"The {noun} {verb} what color?")
        )
        return Example(wording, {normalise("gray" if color == "grey" else color): 1.0})

    def _count(self, record: Captions, caption: str, rng: random.Random) -> Example | None:
        found = re.findall(
            r"\b(two|three|four|five|six) (?:\w+ )?(men|women|people|children|kids|girls|boys|dogs|\w+s)\b", caption
        )
        if not found:
            return None
        number, noun = rng.choice(found)
        wording = rng.choice(
            (f"How many {noun} are there?", f"how many {noun} are in the picture?", f"How many {noun}?")
        )
        return Example(wording, {_NUMBERS[number]: 1.0})

    def _doing(self, record: Captions, caption: str, rng: random.Random) -> Example | None:
        found = re.findall(
            r"\b(man|woman|boy|girl|dog|child|person|kid|lady|men|people|dogs|children)\b.*?\b(\w{3,}ing)\b", caption
        )
        found = [(who, doing) for who, doing in found if doing in self.answers]
        if not found:
            return None
        who, doing = rng.choice(found)
        verb = "are" if who in ("men", "people", "dogs", "children") else "is"
        return Example(
            rng.choice((f"What {verb} the {who} doing?", f"what is the activity of the {who}?")), {doing: 1.0}
        )

    def _has(self, record: Captions, caption: str, rng: random.Random) -> Example | None:
        found = [(who, doing, self._thing(rest)) for who, doing, rest in _WITH.findall(caption)]
        found = [(who, doing, thing) for who, doing, thing in found if thing and thing not in _SCENES]
        if not found:
            return None
        who, doing, thing = rng.choice(found)
        return Example(f"What {'are' if who in _MANY else 'is'} the {who} {doing}?", {thing: 1.0})

    def _where(self, record: Captions, caption: str, rng: random.Random) -> Example | None:
        noun = next((word for word in _WORD.finditer(caption) if word.group() in self._noun_set), None)
        at = _AT.match(caption, noun.end()) if noun else None
        if noun is None or at is None or (place := self._thing(at[2])) not in _PLACES:
            return None
        how, name = at[1], noun.group()
        verb = "are" if name in _MANY or (name.endswith("s") and not name.endswith("ss")) else "is"
        wording = f"Where {verb} the {name}?"
        if place in _SCENES and rng.random() < 0.3:
            wording = rng.choice(("Where was this picture taken?", "Where is this?"))
        spelled = f"{how} {place}"  # people answer with and without the preposition
        return Example(wording, {place: 0.6, spelled: 0.4} if spelled in self.answers else {place: 1.0})

    def _thing(self, words: str) -> str:
        """The noun that ends a phrase, if it is an answer, else nothing: "blue dirt bike near" -> dirt bike."""
        phrase: list[str] = []
        for word in words.split():
            if word in _STOP or word.endswith("ing"):
                break
            phrase.append(word)
        for length in (2, 1):
            thing = " ".join(phrase[-length:])
            if len(phrase) >= length and thing in self.answers and thing not in COLORS:
                return thing
        return ""

    def _what(self, record: Captions, caption: str, rng: random.Random) -> Example | None:
        found = re.findall(r"\b(?:a|an|the) (\w+) (\w+ing|is|are|in|on|with|and) ((?:\w+ ){1,6}\w+)", caption)
        found = [(noun, verb, rest) for noun, verb, rest in found if noun in self._noun_set and noun in self.answers]
        if not found:
            return None
        noun, verb, rest = rng.choice(found)
        asks = (
            "Who" if noun in ("man", "woman", "boy", "girl", "child", "lady", "kid") and rng.random() < 0.7 else "What"
        )
        rest = f"is {verb} {rest}" if verb.endswith("ing") or verb in ("in", "on", "with") else f"{verb} {rest}"
        return None if verb == "and" else Example(f"{asks} {rest}?", {noun: 1.0})

    def _is_there(self, record: Captions, caption: str, rng: random.Random) -> Example | None:
        if not self.nouns:  # too few captions to know any
            return None
        said = set(_WORD.findall(" ".join(record.captions).lower()))
        present = self._noun_set.intersection(_WORD.findall(caption))
        yes = rng.random() < 0.5 and bool(present)
        if yes:
            noun = rng.choice(sorted(present))
        else:
            noun = rng.choice(self.nouns[:200])
            if noun in said or noun.removesuffix("s") in said or f"{noun}s" in said:
                return None
        plural = (noun.endswith("s") and not noun.endswith("ss")) or noun in ("people", "men", "women", "children")
        article = "any" if plural else "an" if noun[0] in "aeiou" else "a"
        verb = "Are" if plural else "Is"
        place = rng.choice(("", " in the picture", " in this image", " in the photo", " here"))
        return Example(f"{verb} there {article} {noun}{place}?", {"yes" if yes else "no": 1.0})


def _shorten(caption: str) -> str:
    return " ".join(caption.lower().split()[:_LONGEST_CAPTION]).rstrip(" .")
