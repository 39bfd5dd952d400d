"""All pairs of English and Chinese sentences that the Chinese encoder learns from.

* people's questions of the train split that the translator can translate, in two wordings each;
* made questions: forms filled with what stands in people's questions at that place, and with single words;
* captions of the train split with their machine translations (Flickr8k-CN);
* the answers and the words themselves.

Nothing of the dev split is among them, nor the 300 questions of `model.evaluation.chinese`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from model.compact.answer_words import TABLE
from model.compact.model import EMBEDDED
from model.evaluation import data as evaluation_data
from model.training.chinese.translate import Form, Translator, plural

OBJECTS = Path(evaluation_data.__file__).with_name("chinese") / "objects.tsv"
_MANY = frozenset(["are", "many", "these", "those", "any", "kinds", "types", "of", "both", "all", "do"])
_TRANSLATIONS = 3
_MADE_FROM_WORDS = 0.4


class Pair(NamedTuple):
    """One sentence in both languages. ``kind``: ``question``, ``made``, ``caption`` or ``word``."""

    english: str
    chinese: str
    kind: str


def gather(folder: Path, *, made: int = 30_000, captions: int = 30_000, seed: int = 0) -> list[Pair]:
    """All pairs, each once, shuffled. ``folder``: as for `model.evaluation.data.read_data`, with ``chinese/``."""
    rng = random.Random(seed)  # noqa: S311
    translator = Translator(rng)
    questions = list(_questions(folder))
    pairs = list(_translated(translator, questions))
    pairs += _made(translator, questions, made)
    texts = list(_captions(folder))
    pairs += rng.sample(texts, min(captions, len(texts)))
    pairs += _words(translator)
    pairs = list(dict.fromkeys(pairs))
    rng.shuffle(pairs)
    return pairs


def _questions(folder: Path) -> Iterator[str]:
    for name in ("coco", "daquar"):
        with (folder / f"{name}.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                if "question" in record and record["split"] == "train":
                    yield record["question"]


def _translated(translator: Translator, questions: Iterable[str]) -> Iterator[Pair]:
    for question in dict.fromkeys(questions):
        for _ in range(_TRANSLATIONS):
            chinese = translator.translate(question)
            if chinese is None:
                break
            yield Pair(question, chinese, "question")


def _captions(folder: Path) -> Iterator[Pair]:
    english = {}
    with (folder / "flickr8k.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            english[record["image"]] = record["captions"]
    with (folder / "chinese" / "flickr8k.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            if record["split"] == "train":
                for one, other in zip(english[record["image"]], record["machine_of_captions"], strict=False):
                    if one and other:
                        yield Pair(one, other, "caption")


def _words(translator: Translator) -> Iterator[Pair]:
    for section in ("noun", "adjective", "verb"):
        for english, wordings in translator.words[section].items():
            for chinese in wordings:
                yield Pair(english, chinese, "word")
    for file in (EMBEDDED / TABLE, OBJECTS):
        for line in file.read_text("utf-8").splitlines():
            english, chinese = line.split("\t")[:2]
            yield Pair(english, chinese, "word")


def _made(translator: Translator, questions: Iterable[str], count: int) -> Iterator[Pair]:
    """Forms with their slots filled."""
    rng = translator.rng
    bank: dict[tuple[str, bool], list[str]] = {}
    for question in dict.fromkeys(questions):
        found = translator.match(question)
        if found is not None:
            form, slots = found
            for name, words in slots.items():
                bank.setdefault((name, _is_many(form, name)), []).append(" ".join(words))
    forms = [form for form in translator.forms if any(word.startswith("{") for word in form.english)]
    forms = [form for form in forms if "{s}" not in form.english]
    nouns = list(translator.words["noun"])
    for _ in range(count):
        form = rng.choice(forms)
        filled = {}
        for word in form.english:
            if word.startswith("{"):
                filled[word.strip("{}")] = _filler(translator, form, word.strip("{}"), bank, nouns)
        chinese = {name: translator.slot(name, text.split()) for name, text in filled.items()}
        if all(chinese.values()):
            english = " ".join(filled.get(word.strip("{}"), word) for word in form.english)
            yield Pair(f"{english}?", translator.fill(form, {k: v or "" for k, v in chinese.items()}), "made")


def _filler(
    translator: Translator, form: Form, name: str, bank: dict[tuple[str, bool], list[str]], nouns: list[str]
) -> str:
    rng, many = translator.rng, _is_many(form, name)
    known = bank.get((name, many)) or bank.get((name, not many))
    if known and (name in "vp" or rng.random() > _MADE_FROM_WORDS):
        return rng.choice(known)
    if name.startswith("a"):
        return rng.choice(list(translator.words["adjective"]))
    if name == "v":
        return rng.choice(list(translator.words["verb"]))
    if name == "p":
        return f"{rng.choice(('on', 'under', 'behind', 'next to', 'in front of', 'near'))} the {rng.choice(nouns)}"
    noun = rng.choice(nouns)
    noun = plural(noun) if many else noun
    if rng.random() < 0.3:
        noun = f"{rng.choice(list(translator.words['adjective']))} {noun}"
    before = form.english[form.english.index(f"{{{name}}}") - 1] if form.english[0] != f"{{{name}}}" else ""
    bare = before in ("the", "a", "an", "this", "that", "these", "those", "many", "any", "of") or name == "x"
    return noun if bare else f"the {noun}"


def _is_many(form: Form, name: str) -> bool:
    at = form.english.index(f"{{{name}}}")
    return bool(_MANY.intersection(form.english[max(0, at - 2) : at]))
