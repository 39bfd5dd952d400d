"""A conversation as OpenAI's clients send it, read as one question about an image, or several where a model takes them.

Both of OpenAI's routes come here with their messages. The question is what the user said last, and the image stands
beside it or is the conversation's only one. Everything said before is ignored, for the model takes none of it: only the
question and what follows it must be of parts that are known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from app import choices, wire
from app.choices import Choice
from app.engine.engine import Answered, ImageSource
from app.errors import RequestError, only_text
from app.image_names import LONGEST_NAME, ImageNames
from app.intake import inline
from app.offload import by_size
from app.points import with_points
from app.request_context import RequestContext, check_language, distinct, generation_of, map_request
from crosslook.types import AnswerOptions, AnswerResponse, MapChoice
from model.interface import ModelInfo, Progress, TextOutput, TokenChoice

_TEXTS = ("text", "input_text")
_IMAGES = ("image_url", "input_image")
_SAME_TURN = ("system", "developer")  # what may stand between two messages of one turn
_SMALLEST = 1e-300  # a probability that float32 rounded to 0 still gets a logarithm
_TOP_K, _MOST_TOP_K = 5, 50

MOST_MESSAGES = 5000
MOST_PARTS = 1000
"""Messages of a conversation, and parts of one of them that counts."""


class StructuredOutputs(BaseModel):
    """vLLM's newer name for the same; its other fields are refused."""

    model_config = ConfigDict(extra="forbid")

    choice: list[str] = Field(min_length=1, max_length=200, fail_fast=True)


class ConversationRequest(AnswerOptions):
    """What OpenAI's two routes have in common: options of ``POST /v1/answer``, and what the model cannot do."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    maps: MapChoice = Field("none", description="Encoding of the maps in the response's `crosslook` field, or none.")
    top_k: int = Field(
        _TOP_K,
        description="How many answers the ranking in `crosslook` holds, from 1 to 50. Other values are the sampling "
        "parameter of other servers, and make no difference.",
    )
    stream: bool | None = False
    stop: list[Annotated[str, Field(min_length=1, max_length=100)]] | None = Field(
        None, max_length=8, fail_fast=True, description="The answer ends before any of these. A text alone works too."
    )
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = Field(
        None, max_length=1000, fail_fast=True, description="Refused unless `tool_choice` is none."
    )
    tool_choice: str | dict[str, Any] | None = None
    guided_choice: list[str] | None = Field(
        None, min_length=1, max_length=200, fail_fast=True, description="vLLM's name for `candidates`."
    )
    structured_outputs: StructuredOutputs | None = None

    @field_validator("top_k", mode="before")
    @classmethod
    def _ours(cls, value: object) -> object:
        """The sampling parameter of other servers (-1 and 0: off) has this name, and here it means nothing."""
        foreign = value is None or (isinstance(value, int | float) and not 1 <= value <= _MOST_TOP_K)
        return _TOP_K if foreign else value

    @field_validator("stop", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """OpenAI takes a text in place of a list of one."""
        return [value] if isinstance(value, str) else value

    @property
    def limit(self) -> int | None:
        """The most tokens of the answer, by the dialect's own name for it."""
        return None

    def refuse_tools(self) -> None:
        """Raise `RequestError` for tools that the model may be meant to call."""
        if self.tools and self.tool_choice != "none":
            raise RequestError("invalid_request", "tools: this model calls none.", param="tools")

    def choice(self, wanted: Mapping[str, Any] | None, place: str) -> Choice | None:
        """What the answer shall be chosen from, in whichever field it is; ``wanted`` is the one named ``place``, which
        tells the answer's form. None where any answer will do.

        Raises: `RequestError` ``invalid_request`` for JSON that is no choice, and for two choices.
        """
        found = {place: choices.from_format(wanted, place)}
        if self.guided_choice is not None:
            found["guided_choice"] = choices.from_list(self.guided_choice, "guided_choice")
        if self.structured_outputs is not None:
            found["structured_outputs"] = choices.from_list(self.structured_outputs.choice, "structured_outputs.choice")
        if self.candidates is not None:
            found["candidates"] = Choice(tuple(self.candidates))
        given = {name: one for name, one in found.items() if one is not None}
        if len(given) > 1:
            message = f"Give one choice, not {' and '.join(given)}."
            raise RequestError("invalid_request", message, param=[*given][-1])
        return next(iter(given.values()), None)


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


def _named(messages: Sequence[Received], index: int, field: str) -> _Message:
    return _Message(f"{field}[{index}].content", messages[index].content)


async def _without_doubles(found: dict[Image, str]) -> dict[Image, str]:
    """Images and their places, without those that are the same bytes, spelled in another way, or have the same name."""

    def plain(image: Image) -> tuple[str, str]:
        return ("name", image.name or "") if image.url is None else ("url", inline.plain_base64(image.url))

    def compare() -> dict[Image, str]:
        return dict({plain(image): (image, place) for image, place in found.items()}.values())

    return await by_size(sum(len(image.url or "") for image in found), compare)


async def answer(
    context: RequestContext,
    body: ConversationRequest,
    asked: Asked,
    choice: Choice | None,
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[Answered, TextOutput, ModelInfo]:
    """Put the question to the model. An image that has a name is known by it from then on. A model that writes token by
    token tells ``on_progress`` of each step.

    Raises: `RequestError` ``image_not_found`` for a name that stands for no image that is kept; what the native route
        does; fields at fault have their names in the conversation.
    """
    names: ImageNames = context.request.app.state.image_names
    info = context.model(body.model)
    maps = map_request(body, info)
    check_language(body.language, info)
    with only_text(asked.question_place):
        context.check_texts([asked.question])
        image = await _source(context, names, asked)
        answered = await context.run(
            "answer",
            image,
            [asked.question],
            candidates=None if choice is None else distinct(choice.texts),
            top_k=max(body.top_k, body.top_logprobs or 0),
            language=body.language,
            maps=maps,
            generation=generation_of(body, info, limit=body.limit, top_logprobs=body.top_logprobs or 0),
            on_progress=on_progress,
        )
    if asked.image.name is not None and not asked.others:
        names.put(context.caller, asked.image.name, answered.image_id)
    return answered, answered.output.texts[0], info


async def _source(context: RequestContext, names: ImageNames, asked: Asked) -> ImageSource:
    """The image for the engine, or the images."""
    if asked.others:
        together = ((asked.image, asked.image_place), *asked.others)
        urls = [image.url for image, _ in together if image.url is not None]
        if len(urls) < len(together):
            message = "Of several images each must be sent in image_url; a uuid stands for one alone."
            raise RequestError("invalid_request", message, param=asked.image_place)
        return await context.images(urls, [place for _, place in together], param=asked.image_place)
    if asked.image.url is not None:
        return await context.image(text=asked.image.url, param=asked.image_place)
    known = names.get(context.caller, asked.image.name or "")
    if known is None:
        message = "No image of this uuid is kept here; send it in image_url."
        raise RequestError("image_not_found", message, param=f"{asked.image_place}.uuid")
    return replace(await context.image(image_id=known), param=asked.image_place)


def native(body: ConversationRequest, asked: Asked, answered: Answered, info: ModelInfo) -> AnswerResponse:
    """What ``POST /v1/answer`` would have said: the extra field of the responses."""
    geometry = answered.geometry
    response = wire.answer_response(info, answered.image_id, geometry, [asked.question], answered.output, body.maps)
    return with_points(response) if body.points else response


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a question cost: its own tokens, the image's patches (``cached``: those known before) and the answer's."""

    text: int
    image: int
    cached: int
    answer: int

    @classmethod
    def of(cls, answered: Answered, text: TextOutput) -> Tokens:
        """Those of one ``text`` of what was ``answered``; an image found in the cache counts as cached."""
        grids = (answered.geometry, *answered.geometry.others)
        patches = sum(grid.rows * grid.columns for grid in grids)
        return cls(text.token_count, patches, 0 if answered.cache == "miss" else patches, text.answer_token_count)


class LogProb(BaseModel):
    """A token with the logarithm of its probability; or an answer as if it were one token, with that of its score."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogProb(LogProb):
    """A token of the answer and the likeliest at its place; or the answer given, and its runners-up."""

    top_logprobs: list[LogProb]


def log_probabilities(text: TextOutput, top: int) -> list[TokenLogProb]:
    """An entry a token where the answer was written; else one, the whole answer, with ``top`` of the ranking."""
    if text.choices:
        return [token_log_probability(choice) for choice in text.choices]
    entries = [
        LogProb(token=r.answer, logprob=math.log(max(r.score, _SMALLEST)), bytes=list(r.answer.encode()))
        for r in text.ranking
    ]
    return [TokenLogProb(**entries[0].model_dump(), top_logprobs=entries[:top])]


def token_log_probability(choice: TokenChoice) -> TokenLogProb:
    """The entry of one token that was written."""
    return TokenLogProb(
        **_entry(choice.text, choice.log_probability).model_dump(),
        top_logprobs=[_entry(text, log_probability) for text, log_probability in choice.top],
    )


def _entry(text: str, log_probability: float) -> LogProb:
    return LogProb(token=text, logprob=log_probability, bytes=list(text.encode()))
