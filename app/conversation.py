"""A conversation as OpenAI's clients send it, read as one question about one image.

Both of OpenAI's routes come here with their messages. The question is what the user said last, and the image stands
beside it or is the conversation's only one. Everything said before is ignored, for the model takes none of it: only the
question and what follows it must be of parts that are known here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from app import wire
from app.engine.engine import Answered
from app.errors import RequestError, only_text
from app.intake import inline
from app.offload import by_size
from app.request_context import RequestContext, distinct, generation_of, map_request
from crosslook.types import AnswerOptions, AnswerResponse, MapChoice
from model.interface import ModelInfo, TextOutput, TokenChoice

_TEXTS = ("text", "input_text")
_IMAGES = ("image_url", "input_image")
_SAME_TURN = ("system", "developer")  # what may stand between two messages of one turn
_SMALLEST = 1e-300  # a probability that float32 rounded to 0 still gets a logarithm
_TOP_K, _MOST_TOP_K = 5, 50

MOST_MESSAGES = 5000
MOST_PARTS = 1000
"""Messages of a conversation, and parts of one of them that counts."""


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


def refuse_format(wanted: Mapping[str, Any] | None, place: str) -> None:
    """Raise `RequestError` for an answer in JSON."""
    if wanted is not None and wanted.get("type") not in (None, "text"):
        raise RequestError("invalid_request", f"{place}: only text.", param=place)


class Received(BaseModel):
    """A message as it is read: wider than the documents say, for most of it does not matter."""

    role: Any = None
    content: Any = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and an image's URL (or data URI), with the names of the fields that they are from."""

    question: str
    question_place: str
    image: str
    image_place: str


@dataclass(frozen=True, slots=True)
class _Message:
    place: str
    content: Any

    def parts(self, *, strict: bool) -> Iterator[tuple[str, str, str]]:
        """Place, kind (``text`` or ``image``) and value of each part; what is none is refused, or passed over.

        Raises: `RequestError` ``invalid_request``.
        """
        content = [] if self.content is None else self.content
        if isinstance(content, str):
            yield self.place, "text", content
            return
        if not isinstance(content, list):
            if strict:
                message = f"{self.place}: must be text or a list of parts."
                raise RequestError("invalid_request", message, param=self.place)
            return
        for index, part in enumerate(content):
            place = f"{self.place}[{index}]"
            try:
                yield (place, *_read(part, place))
            except RequestError:
                if strict:
                    raise


def _read(part: object, place: str) -> tuple[str, str]:
    """Kind and value of one part."""
    if isinstance(part, str):
        return "text", part
    if not isinstance(part, dict):
        raise RequestError("invalid_request", f"{place}: must be an object.", param=place)
    kind = part.get("type")
    if kind in _TEXTS:
        field, value = "text", part.get("text") or ""
    elif kind in _IMAGES:
        field, value = "image_url", part.get("image_url")
        if isinstance(value, dict):
            field, value = "image_url.url", value.get("url")
        if kind == "input_image" and value is None and part.get("file_id") is not None:
            message = f"{place}.file_id: this server keeps no files; send the image in image_url."
            raise RequestError("invalid_request", message, param=f"{place}.file_id")
    else:
        message = f"{place}.type: text and images are read here, {str(kind)[:50]} is not."
        raise RequestError("invalid_request", message, param=f"{place}.type")
    if not isinstance(value, str):
        raise RequestError("invalid_request", f"{place}.{field}: must be a string.", param=f"{place}.{field}")
    return ("text" if kind in _TEXTS else "image"), value


async def read(messages: Sequence[Received], field: str) -> Asked:
    """What a conversation asks. ``field`` is the name of the list of its messages.

    Raises: `RequestError` ``invalid_request`` without a user's message, without an image or with several of which none
    is meant, and for parts of the last turn that are neither text nor image.
    """
    users = [i for i, message in enumerate(messages) if message.role == "user"]
    if not users:
        raise RequestError("invalid_request", "There is no user message.", param=field)
    last = users[-1]
    began = last
    while began and messages[began - 1].role in ("user", *_SAME_TURN):
        began -= 1
    said = {i: [*_named(messages, i, field).parts(strict=False)] for i in users if i >= began}
    texts = {i: "\n".join(text for _, kind, text in parts if kind == "text" and text) for i, parts in said.items()}
    asked = max((i for i, text in texts.items() if text.strip()), default=last)
    turn = {i: [*_named(messages, i, field).parts(strict=True)] if i >= asked else said[i] for i in said}
    earlier = [part for i in users if i < began for part in _named(messages, i, field).parts(strict=False)]
    now = [part for parts in turn.values() for part in parts]
    for considered in (turn[asked], now, earlier):
        found = {url: place for place, kind, url in considered if kind == "image"}
        if len(found) > 1:
            found = await _without_doubles(found)
        if len(found) > 1:
            message = f"The model takes one image; there are {len(found)} different ones."
            raise RequestError("invalid_request", message, param=field, detail={"images": len(found)})
        for url, place in found.items():
            return Asked(texts[asked], _named(messages, asked, field).place, url, place)
    raise RequestError("invalid_request", "There is no image: send it as an image_url part.", param=field)


def _named(messages: Sequence[Received], index: int, field: str) -> _Message:
    return _Message(f"{field}[{index}].content", messages[index].content)


async def _without_doubles(found: dict[str, str]) -> dict[str, str]:
    """Images by their URLs, without those that are the same bytes, spelled in another way."""

    def compare() -> dict[str, str]:
        return dict({inline.plain_base64(url): (url, place) for url, place in found.items()}.values())

    return await by_size(sum(map(len, found)), compare)


async def answer(
    context: RequestContext, body: ConversationRequest, asked: Asked
) -> tuple[Answered, TextOutput, ModelInfo]:
    """Put the question to the model.

    Raises: what the native route does; fields at fault have their names in the conversation.
    """
    info = context.model(body.model)
    maps = map_request(body, info)
    with only_text(asked.question_place):
        context.check_texts([asked.question])
        image = await context.image(text=asked.image, param=asked.image_place)
        answered = await context.run(
            "answer",
            image,
            [asked.question],
            candidates=None if body.candidates is None else distinct(body.candidates),
            top_k=max(body.top_k, body.top_logprobs or 0),
            maps=maps,
            generation=generation_of(body, info, limit=body.limit, top_logprobs=body.top_logprobs or 0),
        )
    return answered, answered.output.texts[0], info


def native(body: ConversationRequest, asked: Asked, answered: Answered, info: ModelInfo) -> AnswerResponse:
    """What ``POST /v1/answer`` would have said: the extra field of the responses."""
    geometry = answered.geometry
    return wire.answer_response(info, answered.image_id, geometry, [asked.question], answered.output, body.maps)


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
        patches = answered.geometry.rows * answered.geometry.columns
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
