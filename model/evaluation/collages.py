"""Collages of four photographs whose question, made from a caption, only one of the four can answer.

Where the answer lies is known without any drawn box, so they test whether a map points there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from model.evaluation.data import Captions, ImageRef
from model.interface import Geometry

COLLAGES = 400  # how many are made unless asked otherwise
TILE = 192  # pixels a side of each of the four
_TRIES = 200

# What questions ask about: a thing and all the words by which captions may mention it. A thing is asked about only
# where no caption of the other three has any of its words, so a list errs on the long side.
_THINGS = {
    "dog": "dog dogs puppy puppies",
    "person": "man men woman women boy boys girl girls child children kid kids toddler toddlers baby person people "
    "player players lady ladies guy guys crowd couple family team rider riders skater skaters "
    "skateboarder skateboarders biker bikers climber climbers hiker hikers surfer surfers skier skiers "
    "snowboarder snowboarders swimmer swimmers cyclist cyclists bicyclist bicyclists someone adult adults "
    "he she his her him they their male female teenager teenagers rollerblader runner racer racers driver "
    "worker workers performer dancer dancers friend friends group",
    "bike": "bike bikes bicycle bicycles biker bikers cyclist cyclists bicyclist bicyclists bmx biking cycling",
    "motorcycle": "motorcycle motorcycles motorbike motorbikes motorcyclist motorcyclists biker bikers bike bikes atv",
    "ball": "ball balls football soccer basketball baseball tennis volleyball rugby golf",
    "frisbee": "frisbee frisbees disc disk",
    "car": "car cars vehicle vehicles truck trucks van jeep racecar traffic",
    "boat": "boat boats canoe canoes kayak kayaks ship raft sailboat kayaker rowing",
    "horse": "horse horses pony bronco",
    "bird": "bird birds duck ducks goose geese seagull seagulls pigeon pigeons swan",
    "bench": "bench benches",
    "skateboard": "skateboard skateboards skateboarder skateboarders skateboarding",
    "surfboard": "surfboard surfboards surfer surfers surfing surf surfs",
    "swing": "swing swings swinging",
    "tent": "tent tents camp campsite",
    "snow": "snow snowy snowboard snowboarder snowboarding ski skis skier skiing ice icy",
    "pool": "pool pools swimming",
}
THING_WORDS = {thing: frozenset(words.split()) for thing, words in _THINGS.items()}
_PEOPLE = ("man", "woman", "boy", "girl", "child", "person", "baby", "lady", "toddler")
_NAMES = {thing: (thing, *(_PEOPLE if thing == "person" else ())) for thing in _THINGS} | {"snow": ("snow",)}
_ALIVE = ("dog", "person", "horse", "bird")
_COLORS = "black|white|brown|red|blue|green|yellow|orange|pink|tan|purple|grey|gray|golden"
_COUNTS = "two|three|four|five"
_IRREGULAR = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "person": "people",
    "baby": "babies",
    "lady": "ladies",
}


@dataclass(frozen=True, slots=True)
class Collage:
    """A square of four images; ``place`` (0 to 3, row by row) is the one that the question asks about.

    ``caption`` is the sentence about that image of which the question was made, for models that match; ``word`` names
    the thing in both.
    """

    refs: tuple[ImageRef, ImageRef, ImageRef, ImageRef]
    place: int
    question: str
    caption: str
    word: str

    def compose(self, open_image: Callable[[ImageRef], Image.Image]) -> Image.Image:
        """The collage's pixels."""
        return compose(self.refs, open_image)


def compose(refs: Sequence[ImageRef], open_image: Callable[[ImageRef], Image.Image]) -> Image.Image:
    """Four images two by two, each cropped to its central square."""
    collage = Image.new("RGB", (2 * TILE, 2 * TILE))
    for place, ref in enumerate(refs):
        tile = ImageOps.fit(open_image(ref), (TILE, TILE), Image.Resampling.BICUBIC)
        collage.paste(tile, (place % 2 * TILE, place // 2 * TILE))
    return collage


def make_collages(captions: Sequence[Captions], count: int, *, seed: int = 0) -> list[Collage]:
    """Up to ``count`` collages, each about another image; fewer where the captions do not give so many."""
    rng = np.random.default_rng(seed)
    mentions = [_mentions(record) for record in captions]
    collages: list[Collage] = []
    for target in rng.permutation(len(captions)):
        if len(collages) == count:
            break
        record = captions[target]
        # Most of the captions must name the thing: it is then large enough to be asked about.
        things = [thing for thing, times in mentions[target].items() if 2 * times > len(record.captions)]
        asked = [(thing, made) for thing in things if (made := _ask(thing, record.captions, rng))]
        if not asked:
            continue
        thing, made = asked[rng.integers(len(asked))]
        others = _without(thing, mentions, int(target), rng)
        if others is None:
            continue
        place = int(rng.integers(4))
        indexes = [*others[:place], int(target), *others[place:]]
        first, second, third, fourth = (captions[i].image_ref for i in indexes)
        collages.append(Collage((first, second, third, fourth), place, *made))
    return collages


def quadrant(geometry: Geometry, row: int, column: int) -> int:
    """Which of the four images (0 to 3, row by row) the centre of a map's cell lies in."""
    region = geometry.region
    x = region.left + (column + 0.5) / geometry.columns * (region.right - region.left)
    y = region.top + (row + 0.5) / geometry.rows * (region.bottom - region.top)
    return 2 * (y >= geometry.height / 2) + (x >= geometry.width / 2)


def _mentions(record: Captions) -> Counter[str]:
    counts: Counter[str] = Counter()
    for caption in record.captions:
        words = set(re.findall(r"[a-z]+", caption.lower()))
        counts.update(thing for thing, names in THING_WORDS.items() if words & names)
    return counts


def _without(thing: str, mentions: Sequence[Counter[str]], target: int, rng: np.random.Generator) -> list[int] | None:
    """Three other images whose captions never mention the thing."""
    chosen: list[int] = []
    for index in rng.integers(len(mentions), size=_TRIES).tolist():
        if index != target and index not in chosen and not mentions[index][thing]:
            chosen.append(index)
            if len(chosen) == 3:
                return chosen
    return None


class _Asked(NamedTuple):
    question: str
    caption: str
    word: str


def _ask(thing: str, captions: Sequence[str], rng: np.random.Generator) -> _Asked | None:
    """A question about the thing that one of the captions answers, that caption, and the word for the thing."""
    found: dict[str, _Asked] = {}
    for caption in captions:
        text = caption.lower()
        for name in _NAMES[thing]:
            plural = _IRREGULAR.get(name, f"{name}es" if name.endswith("ch") else f"{name}s")
            questions = []
            if thing != "person" and re.search(rf"\b({_COLORS}) {name}\b", text):
                questions.append((f"What color is the {name}?", name))
            if re.search(rf"\b({_COUNTS}) (\w+ )?{plural}\b", text):
                questions.append((f"How many {plural} are there?", plural))
            if thing in _ALIVE and re.search(rf"\b{name} (is )?\w+ing\b", text):
                questions.append((f"What is the {name} doing?", name))
            if re.search(rf"\b{name}\b", text):
                questions.append((f"Where is the {name}?", name))
            for question, word in questions:
                found.setdefault(question, _Asked(question, caption, word))
    # Every photograph is somewhere: that question only where nothing more can be asked.
    distinct = sorted(question for question in found if not question.startswith("Where")) or sorted(found)
    return found[distinct[rng.integers(len(distinct))]] if distinct else None
