"""Collages for training: four images side by side, and texts that are about one of them alone.

They teach maps to point: a text's map should lie on the quarter that it is about. `model.evaluation.collages` makes the
collages that maps are tested with, of other images and in another way.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from model.evaluation.collages import THING_WORDS
from model.evaluation.data import Captions, ImageRef
from model.training.tasks import Asked, CaptionTasks, Example

_TRIES = 30
_TEXTS = 4  # of an image, at most
_WORD = re.compile(r"[a-z]+")
_NO_THINGS = (
    "yes no none nothing white black red blue green yellow brown orange pink purple gray grey tan silver gold dark "
    "left right top bottom middle front back many few old young happy sad day night morning afternoon evening summer "
    "winter spring fall sunny cloudy rainy cold warm hot real fake good bad big small large tall short long wide open "
    "closed on off up down in out there here unknown one two three four five six seven eight nine ten eating sitting "
    "standing playing walking running riding flying skiing surfing skateboarding sleeping male female wood metal glass "
    "plastic brick concrete stone round square"
)
NO_THINGS = frozenset(_NO_THINGS.split())
"""Answers that name no thing that an image might have and another lack."""


@dataclass(frozen=True, slots=True)
class CollageImage:
    """An image, what may be asked about it, and every word that any text about it has."""

    ref: ImageRef
    examples: Sequence[Example]
    words: frozenset[str]


@dataclass(frozen=True, slots=True)
class CollagePool:
    """Images that go on collages together. ``nouns`` are the words that tell them apart: a text is about one image
    alone if the texts of the other three mention none of its nouns."""

    images: Sequence[CollageImage]
    nouns: frozenset[str]


@dataclass(frozen=True, slots=True)
class AskedCollage:
    """Four images, row by row, and texts, each with the place (0 to 3) that it is about."""

    refs: tuple[ImageRef, ...]
    texts: Sequence[tuple[Example, int]]


class CollageMaker:
    """Draws collages from pools, each by its size."""

    def __init__(self, pools: Sequence[CollagePool]) -> None:
        self._pools = [pool for pool in pools if len(pool.images) >= 4]
        self._weights = [len(pool.images) for pool in self._pools]

    def make(self, count: int, seed: int) -> list[AskedCollage]:
        """``count`` collages, always the same; fewer where too seldom a text is about one image alone, none where no
        pool has four images."""
        if not self._pools:
            return []
        drawn = (self._draw(random.Random(f"{seed}/{number}")) for number in range(count))  # noqa: S311
        return [collage for collage in drawn if collage is not None]

    def _draw(self, rng: random.Random) -> AskedCollage | None:
        for _ in range(_TRIES):
            pool = rng.choices(self._pools, self._weights)[0]
            images = rng.sample(pool.images, 4)
            found: list[tuple[Example, int]] = []
            for place, image in enumerate(images):
                others = frozenset().union(*(other.words for other in images if other is not image))
                alone = [one for one in image.examples if _tells(one, others, pool.nouns)]
                found += [(one, place) for one in rng.sample(alone, min(_TEXTS, len(alone)))]
            if found:
                return AskedCollage(tuple(image.ref for image in images), found)
        return None


def _tells(example: Example, others: frozenset[str], nouns: frozenset[str]) -> bool:
    named = nouns.intersection(singular(example.text))
    return bool(named) and not named & others


def collage_image(
    ref: ImageRef, examples: Sequence[Example], texts: Iterable[str], nouns: frozenset[str]
) -> CollageImage:
    """``texts``: all texts about the image. Questions answered *no* are left out, since they may be about nothing in
    it. The yes/no questions that remain all have the same answer, so they train the map alone; so do the added
    questions of where each noun is."""
    words = frozenset().union(*(singular(text) for text in texts))
    where = [Example(f"Where is the {noun}?", {}) for noun in sorted(nouns & words)]
    about = [one for one in examples if one.targets.get("no", 0.0) <= one.targets.get("yes", 0.0)]
    about = [Example(one.text, {}) if "yes" in one.targets else one for one in about]
    groups = [group for group in THING_WORDS.values() if group & words]
    return CollageImage(ref, [*about, *where], words.union(*groups))


def collage_pools(
    asked: Sequence[Asked], captions: Sequence[Captions], tasks: CaptionTasks | None
) -> list[CollagePool]:
    """What collages are made of: images with captions, and images with questions."""
    pools = []
    nouns = frozenset() if tasks is None else frozenset(tasks.nouns)
    if tasks is not None:
        images = [collage_image(record.image_ref, tasks.stock(record), record.captions, nouns) for record in captions]
        pools.append(CollagePool(images, nouns))
    # Of people, questions say too little: that nobody asks about a man does not say that there is none.
    things = Counter(
        answer for one in asked for example in one.examples for answer in example.targets if answer.isalpha()
    )
    nouns |= {thing for thing, count in things.items() if count >= 8 and thing not in NO_THINGS}
    nouns -= THING_WORDS["person"]
    by_archive: dict[str, list[CollageImage]] = {}
    for one in asked:
        said = [f"{example.text} {' '.join(example.targets)}" for example in one.examples]
        image = collage_image(one.ref, [*one.examples, *one.turned], said, nouns)
        by_archive.setdefault(one.ref.archive, []).append(image)
    return [*pools, *(CollagePool(images, nouns) for images in by_archive.values())]


def singular(text: str) -> set[str]:
    """The words of a text, each also without the s of a plural."""
    words = set(_WORD.findall(text.lower()))
    return words | {word.removesuffix("s") for word in words}
