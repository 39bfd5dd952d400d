"""Finds the question of a conversation, and the image that it is about.

The question is what the user said last, and the image stands beside it or is the conversation's only one. Everything
said before is ignored, for the model takes none of it: only the question and what follows it must be of parts that are
known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from app.errors import RequestError
from app.image_names import LONGEST_NAME
from app.intake import inline
from app.offload import by_size

_TEXTS = ("text", "input_text")
_IMAGES = ("image_url", "input_image")
_SAME_TURN = ("system", "developer")  # what may stand between two messages of one turn

MOST_MESSAGES = 5000
MOST_PARTS = 1000
"""Messages of a conversation, and parts of one of them; twice as many as messages in all of them."""


class Received(BaseModel):
    """A message as it is read: wider than the documents say, for most of it does not matter."""

    role: Any = None
    content: Any = None


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a conversation: its ``url`` (or data URI), the ``name`` that the caller gives it, or both. By the
    name alone it can be asked about later."""

    url: str | None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and an image, with the names of the fields that they are from; ``others`` are the images behind the
    first, and their fields."""

    question: str
    question_place: str
    image: Image
    image_place: str
    others: tuple[tuple[Image, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Message:
    place: str
    content: Any

    def parts(self, *, strict: bool) -> Iterator[tuple[str, str | Image]]:
        """Place and value of each part; what is none is refused, or passed over.

        Raises: `RequestError` ``invalid_request``.
        """
        content = [] if self.content is None else self.content
        if isinstance(content, str):
            yield self.place, content
            return
        if not isinstance(content, list):
            if strict:
                message = f"{self.place}: must be text or a list of parts."
                raise RequestError("invalid_request", message, param=self.place)
            return
        for index, part in enumerate(content):
            place = f"{self.place}[{index}]"
            try:
                yield place, _read(part, place)
            except RequestError:
                if strict:
                    raise


def _read(part: object, place: str) -> str | Image:
    """The text or image of one part."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise RequestError("invalid_request", f"{place}: must be an object.", param=place)
    kind = part.get("type")
    if kind in _TEXTS:
        return _string(part.get("text") or "", f"{place}.text")
    if kind not in _IMAGES:
        message = f"{place}.type: text and images are read here, {str(kind)[:50]} is not."
        raise RequestError("invalid_request", message, param=f"{place}.type")
    field, value, name = "image_url", part.get("image_url"), part.get("uuid")
    if isinstance(value, dict):
        field, value = "image_url.url", value.get("url")
    if name is not None:
        name = _string(name, f"{place}.uuid")
        if not 0 < len(name) <= LONGEST_NAME:
            message = f"{place}.uuid: 1 to {LONGEST_NAME} characters."
            raise RequestError("invalid_request", message, param=f"{place}.uuid")
        if value is None:
            return Image(None, name)
    if kind == "input_image" and value is None and part.get("file_id") is not None:
        message = f"{place}.file_id: this server keeps no files; send the image in image_url."
        raise RequestError("invalid_request", message, param=f"{place}.file_id")
    return Image(_string(value, f"{place}.{field}"), name)


def _string(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise RequestError("invalid_request", f"{place}: must be a string.", param=place)
    return value


async def read(messages: Sequence[Received], field: str, *, most: int = 1) -> Asked:
    """What a conversation asks. ``field`` is the name of the list of its messages; ``most`` is how many images the
    model takes.

    Raises: `RequestError` ``invalid_request`` without a user's message, without an image or with more than the model
    takes, and for parts of the last turn that are neither text nor image.
    """
    _check_parts(messages, field)
    users = [i for i, message in enumerate(messages) if message.role == "user"]
    if not users:
        raise RequestError("invalid_request", "There is no user message.", param=field)
    last = users[-1]
    began = last
    while began and messages[began - 1].role in ("user", *_SAME_TURN):
        began -= 1
    said = {i: [*_named(messages, i, field).parts(strict=False)] for i in users if i >= began}
    texts = {i: "\n".join(part for _, part in parts if isinstance(part, str) and part) for i, parts in said.items()}
    asked = max((i for i, text in texts.items() if text.strip()), default=last)
    turn = {i: [*_named(messages, i, field).parts(strict=True)] if i >= asked else said[i] for i in said}
    earlier = [part for i in users if i < began for part in _named(messages, i, field).parts(strict=False)]
    now = [part for parts in turn.values() for part in parts]
    for considered in (turn[asked], now, earlier):
        found = {part: place for place, part in considered if isinstance(part, Image)}
        if len(found) > 1:
            found = await _without_doubles(found)
        if len(found) > most:
            takes = "one image" if most == 1 else f"at most {most} images"
            message = f"The model takes {takes}; there are {len(found)} different ones."
            raise RequestError("invalid_request", message, param=field, detail={"images": len(found)})
        for image, place in found.items():
            others = tuple(found.items())[1:]
            return Asked(texts[asked], _named(messages, asked, field).place, image, place, others)
    raise RequestError("invalid_request", "There is no image: send it as an image_url part.", param=field)


def _check_parts(messages: Sequence[Received], field: str) -> None:
    """Raise `RequestError` for more parts than can be looked at within some milliseconds."""
    parts = [len(message.content) if isinstance(message.content, list) else 1 for message in messages]
    if max(parts, default=0) > MOST_PARTS or sum(parts) > 2 * MOST_MESSAGES:
        message = f"{field}: more than {MOST_PARTS} parts in a message, or {2 * MOST_MESSAGES} in all."
        raise RequestError("invalid_request", message, param=field)


def _named(messages: Sequence[Received], index: int, field: str) -> _Message:
    return _Message(f"{field}[{index}].content", messages[index].content)


async def _without_doubles(found: dict[Image, str]) -> dict[Image, str]:
    """Images and their places, without those that are the same bytes, spelled in another way, or have the same name."""

    def plain(image: Image) -> tuple[str, str]:
        return ("name", image.name or "") if image.url is None else ("url", inline.plain_base64(image.url))

    def compare() -> dict[Image, str]:
        return dict({plain(image): (image, place) for image, place in found.items()}.values())

    return await by_size(sum(len(image.url or "") for image in found), compare)
