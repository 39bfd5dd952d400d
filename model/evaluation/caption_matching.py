"""Matching captions: does a model find the caption of an image among those of others?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from model.evaluation.ask import IMAGES_AT_ONCE, by_batch_key, encode_images
from model.evaluation.data import Captions, DataSet, ImageRef
from model.evaluation.judging import bootstrap
from model.evaluation.report import Matching
from model.interface import Item, ItemError, Model, Output

_MATCH_AGAINST = 9


def match_captions(
    model: Model, data: DataSet, split: str, *, images: int | None = None, seed: int = 0
) -> Matching | None:
    """How often the model finds an image's caption among it and nine captions of other images (chance: 10%).

    All captions of an image are compared with the same nine, so each text is scored only once: a comparison of two
    texts does not depend on the others. None where the model cannot match or the split has too few captions.
    """
    captions = [record for record in data.captions if record.split == split]
    rng = np.random.default_rng(seed)
    captions = [captions[i] for i in rng.permutation(len(captions))[:images]]
    if "match" not in model.info.tasks or len(captions) <= _MATCH_AGAINST:
        return None
    right: list[float] = []
    groups: list[ImageRef] = []
    for start in tqdm(range(0, len(captions), IMAGES_AT_ONCE), desc="matching", disable=None):
        part = captions[start : start + IMAGES_AT_ONCE]
        encoded = encode_images(model, (data.open_image(record.image_ref) for record in part))
        items = [
            Item(image, (*record.captions, *_others(captions, start + offset, rng)), top_k=1)
            for offset, (image, record) in enumerate(zip(encoded, part, strict=True))
        ]
        for members in by_batch_key(encoded):
            for i, output in zip(members, model.run("match", [items[i] for i in members]), strict=True):
                right += _found(output, len(part[i].captions))
                groups += [part[i].image_ref] * len(part[i].captions)
    return Matching(bootstrap(right, groups), len(captions), tuple(sorted({record.source for record in captions})))


def _others(captions: Sequence[Captions], own: int, rng: np.random.Generator) -> list[str]:
    """One caption of each of nine other images."""
    drawn = rng.choice(len(captions) - 1, _MATCH_AGAINST, replace=False)
    return [str(rng.choice(captions[i + (i >= own)].captions)) for i in drawn]


def _found(output: Output | ItemError, own: int) -> list[float]:
    """Which of the first ``own`` texts fit better than each of the others: 1 or 0; all 0 where one was refused."""
    if isinstance(output, ItemError):
        return [0.0] * own
    scores = [text.ranking[0].score for text in output.texts]
    return [float(score > max(scores[own:])) for score in scores[:own]]
