"""Asks the model what a conversation asks; and what the responses of both routes tell of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from pydantic import BaseModel

from app import wire
from app.choices import Choice
from app.conversation.messages import Asked
from app.conversation.options import ConversationRequest
from app.engine.engine import Answered, ImageSource
from app.errors import RequestError, only_text
from app.image_names import ImageNames
from app.points import with_points
from app.request_context import RequestContext, check_language, distinct, generation_of, map_request
from crosslook.types import AnswerResponse
from model.interface import ModelInfo, Progress, TextOutput, TokenChoice

_SMALLEST = 1e-300  # a probability that float32 rounded to 0 still gets a logarithm


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
