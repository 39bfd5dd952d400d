"""Asking a model many texts about many images through `model.interface.Model`, the way the service does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from PIL import Image
from tqdm import tqdm

from model.evaluation.data import ImageRef
from model.interface import EncodedImage, Item, ItemError, Model, Output

IMAGES_AT_ONCE = 16
_BLIND_TEXTS_AT_ONCE = 64
_BLIND_CHECKS = 32


class NotBlind(ValueError):
    """What was given as a question-only twin looks at its image."""


class BestAnswer(NamedTuple):
    """The model's best answer and its score; the empty answer where it refused the question."""

    answer: str
    score: float


REFUSED = BestAnswer("", 0.0)


def answer_texts(model: Model, asked: Sequence[tuple[EncodedImage, Sequence[str]]]) -> list[list[BestAnswer]]:
    """The best answer to each text about each encoded image, in order, in English whatever the text's language. Refused
    texts give `REFUSED`."""
    answers: list[list[BestAnswer]] = [[] for _ in asked]
    for indexes in by_batch_key([image for image, _ in asked]):
        items = [Item(asked[i][0], tuple(asked[i][1]), top_k=1, language="en") for i in indexes]
        for i, output in zip(indexes, model.run("answer", items), strict=True):
            answers[i] = _best(model, asked[i][0], asked[i][1], output)
    return answers


def _best(model: Model, image: EncodedImage, texts: Sequence[str], output: Output | ItemError) -> list[BestAnswer]:
    if isinstance(output, Output):
        return [BestAnswer(text.ranking[0].answer, text.ranking[0].score) for text in output.texts]
    if len(texts) == 1:
        return [REFUSED]
    # One refused text takes its item with it, so ask the others on their own.
    return [answered for text in texts for answered in answer_texts(model, [(image, [text])])[0]]


def by_batch_key(images: Sequence[EncodedImage]) -> list[list[int]]:
    """Indexes of the images that may share a call of ``run``."""
    groups: dict[Any, list[int]] = {}
    for i, image in enumerate(images):
        groups.setdefault(image.batch_key, []).append(i)
    return list(groups.values())


def encode_images(model: Model, images: Iterable[Image.Image]) -> list[EncodedImage]:
    """Preprocess and encode upright RGB images, as the service does."""
    return model.encode([model.info.preprocess(image) for image in images])


def ask_images(
    model: Model,
    open_image: Callable[[ImageRef], Image.Image],
    texts: dict[ImageRef, list[str]],
    *,
    progress: str = "answers",
) -> dict[ImageRef, list[BestAnswer]]:
    """Ask each image its texts; every image is encoded once and kept only while its texts are asked."""
    answers: dict[ImageRef, list[BestAnswer]] = {}
    refs = list(texts)
    with tqdm(total=len(refs), desc=progress, unit="image", disable=None) as bar:
        for start in range(0, len(refs), IMAGES_AT_ONCE):
            part = refs[start : start + IMAGES_AT_ONCE]
            encoded = encode_images(model, (open_image(ref) for ref in part))
            asked = [(image, texts[ref]) for image, ref in zip(encoded, part, strict=True)]
            answers.update(zip(part, answer_texts(model, asked), strict=True))
            bar.update(len(part))
    return answers


def ask_blind(twin: Model, texts: Sequence[str], look: Image.Image) -> list[BestAnswer]:
    """The answers of a question-only twin, all asked of one grey image.

    Raises:
        NotBlind: the twin answers differently about the image ``look``, so it is not blind.
    """
    grey, seen = encode_images(twin, [Image.new("RGB", look.size, (128, 128, 128)), look])
    answers: list[BestAnswer] = []
    for start in tqdm(range(0, len(texts), _BLIND_TEXTS_AT_ONCE), desc="twin", disable=None):
        answers += answer_texts(twin, [(grey, texts[start : start + _BLIND_TEXTS_AT_ONCE])])[0]
    # Asked alike, so that a blind twin's scores are equal to the last digits.
    checks = list(texts[:_BLIND_CHECKS])
    about_grey, about_seen = (answer_texts(twin, [(image, checks)])[0] for image in (grey, seen))
    for text, one, other in zip(checks, about_grey, about_seen, strict=True):
        if abs(one.score - other.score) > 1e-6:
            raise NotBlind(f"the twin {twin.info.id} is not blind: its score for {text!r} changes with the image")
    return answers
