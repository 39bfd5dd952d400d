"""OpenAI's dialect: ``POST /v1/chat/completions``. (``GET /v1/models`` is native and has OpenAI's shape already.)

A conversation is read as one question about one image: the last user message's text, and the image beside it or else
the conversation's only one. Everything said before is ignored, for the model takes none of it. What a caller may ask of
OpenAI but not of this model (several choices, tools, JSON) is refused; what makes no difference here (temperature,
max_tokens ..) is ignored.
"""

from __future__ import annotations

import json
import math
import time
from time import perf_counter
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from app import wire
from app.dependencies import AskerDep
from app.engine.engine import Answered
from app.errors import TAG, RequestError, only_text, request_id_of
from app.intake import bodies
from app.openapi import errors, json_body
from app.request_context import distinct, map_request
from crosslook.types import AnswerOptions, AnswerResponse, MapChoice
from model.interface import ModelInfo, TextOutput

router = APIRouter(prefix="/v1", tags=["openai"])

_SMALLEST = 1e-300  # a probability that float32 rounded to 0 still gets a logarithm


class ImageURL(BaseModel):
    """Where an image is."""

    url: str = Field(description="A data URI or, where the operator allows it, a URL.")


class ChatContentPart(BaseModel):
    """A piece of a message."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageURL | None = None


Content = Annotated[
    Annotated[str, Tag(f"{TAG}text")] | Annotated[list[ChatContentPart], Tag(f"{TAG}parts")],
    Discriminator(lambda value: f"{TAG}text" if isinstance(value, str) else f"{TAG}parts"),
]


class ChatMessage(BaseModel):
    """One message of the conversation. Only user messages are read."""

    role: str
    content: Content | None = None


class StreamOptions(BaseModel):
    """How to stream."""

    include_usage: bool = False


class ChatRequest(AnswerOptions):
    """The part of OpenAI's request that matters here, and the options of ``POST /v1/answer``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    messages: list[ChatMessage] = Field(min_length=1)
    maps: MapChoice = Field("none", description="Encoding of the maps in the response's `crosslook` field, or none.")
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    n: int | None = Field(None, description="Anything but 1 is refused.")
    tools: list[dict[str, Any]] | None = Field(None, description="Refused: the model calls none.")
    response_format: dict[str, Any] | None = Field(None, description="Anything but text is refused.")


class LogProb(BaseModel):
    """An answer as if it were one token, with the logarithm of its score."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogProb(LogProb):
    """The answer given, and its runners-up."""

    top_logprobs: list[LogProb]


class LogProbs(BaseModel):
    """One entry: the whole answer."""

    content: list[TokenLogProb]


class AssistantMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """The only choice."""

    index: int = 0
    message: AssistantMessage
    logprobs: LogProbs | None
    finish_reason: Literal["stop"] = "stop"


class PromptTokens(BaseModel):
    """What the prompt is made of. ``cached_tokens``: the image's, where it was encoded before."""

    text_tokens: int
    image_tokens: int
    cached_tokens: int


class ChatUsage(BaseModel):
    """Tokens of the question and patches of the image; tokens of the answer (1 where it is a choice)."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens


class ChatCompletion(BaseModel):
    """OpenAI's response. ``crosslook`` is what ``POST /v1/answer`` would say: scores, ranking, maps."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage
    crosslook: AnswerResponse


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    openapi_extra={"requestBody": json_body(ChatRequest)},
    responses=errors(400, 401, 404, 408, 413, 415, 422, 429, 503, 504),
    summary="A question about an image, as OpenAI's clients put it",
)
async def chat_completions(request: Request, context: AskerDep) -> Response:
    """Answer the last user message about the image beside it (an `image_url` part; `stream: true` works too).

    Scores, ranking and, with `maps`, attention maps are in the extra field `crosslook`; `logprobs` are those of whole
    answers.
    """
    body = await bodies.read_json(request, ChatRequest)
    _refuse(body)
    place, question = _question(body.messages)
    where, url = _image(body.messages)
    info = context.model(body.model)
    maps = map_request(body, info)
    with only_text(place):
        context.check_texts([question])
        image = await context.image(text=url, param=where)
        answered = await context.run(
            "answer",
            image,
            [question],
            candidates=None if body.candidates is None else distinct(body.candidates),
            top_k=max(body.top_k, body.top_logprobs or 0),
            maps=maps,
        )
    start = perf_counter()
    completion = _completion(request, body, question, answered, info)
    if body.stream:
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        content, kind = _events(completion, with_usage=with_usage), "text/event-stream"
    else:
        content, kind = completion.model_dump_json(), "application/json"
    answered.stages.add("format", start, perf_counter())
    return Response(content, headers=context.headers(answered), media_type=kind)


def _refuse(body: ChatRequest) -> None:
    """Raise `RequestError` for what would change the answer and cannot be done."""
    if body.n not in (None, 1):
        raise RequestError("invalid_request", "n: this model gives one answer; `crosslook` ranks others.", param="n")
    if body.tools:
        raise RequestError("invalid_request", "tools: this model calls none.", param="tools")
    if body.response_format is not None and body.response_format.get("type") != "text":
        raise RequestError("invalid_request", "response_format: only text.", param="response_format")


def _question(messages: list[ChatMessage]) -> tuple[str, str]:
    """Where the question is, and the question."""
    for index in reversed(range(len(messages))):
        if messages[index].role == "user":
            content = messages[index].content
            texts = [content or ""] if not isinstance(content, list) else [part.text or "" for part in content]
            return f"messages[{index}].content", "\n".join(text for text in texts if text)
    raise RequestError("invalid_request", "There is no user message.", param="messages")


def _image(messages: list[ChatMessage]) -> tuple[str, str]:
    """Where the image is, and its URL: beside the question, or else the only one of the conversation."""
    users = [(i, message) for i, message in enumerate(messages) if message.role == "user"]
    for considered in (users[-1:], users):
        found = {
            part.image_url.url: f"messages[{i}].content[{j}]"
            for i, message in considered
            if isinstance(message.content, list)
            for j, part in enumerate(message.content)
            if part.image_url is not None
        }
        if len(found) > 1:
            text = f"The model takes one image; there are {len(found)} different ones."
            raise RequestError("invalid_request", text, param="messages", detail={"images": len(found)})
        for url, where in found.items():
            return where, url
    raise RequestError("invalid_request", "There is no image: send it as an image_url part.", param="messages")


def _completion(
    request: Request, body: ChatRequest, question: str, answered: Answered, info: ModelInfo
) -> ChatCompletion:
    text, geometry = answered.output.texts[0], answered.geometry
    patches = geometry.rows * geometry.columns
    prompt = text.token_count + patches
    native = wire.answer_response(info, answered.image_id, geometry, [question], answered.output, body.maps)
    return ChatCompletion(
        id=f"chatcmpl-{request_id_of(request)}",
        created=int(time.time()),
        model=info.id,
        choices=[
            ChatChoice(
                message=AssistantMessage(content=text.ranking[0].answer),
                logprobs=_logprobs(text, body.top_logprobs or 0) if body.logprobs else None,
            )
        ],
        usage=ChatUsage(
            prompt_tokens=prompt,
            completion_tokens=text.answer_token_count,
            total_tokens=prompt + text.answer_token_count,
            prompt_tokens_details=PromptTokens(
                text_tokens=text.token_count,
                image_tokens=patches,
                cached_tokens=0 if answered.cache == "miss" else patches,
            ),
        ),
        crosslook=native,
    )


def _logprobs(text: TextOutput, top: int) -> LogProbs:
    entries = [
        LogProb(token=r.answer, logprob=math.log(max(r.score, _SMALLEST)), bytes=list(r.answer.encode()))
        for r in text.ranking
    ]
    return LogProbs(content=[TokenLogProb(**entries[0].model_dump(), top_logprobs=entries[:top])])


def _events(completion: ChatCompletion, *, with_usage: bool) -> str:
    """The completion as server-sent events. It is complete before the first is sent, so errors have their status."""
    choice = completion.choices[0]
    base = {
        "id": completion.id,
        "object": "chat.completion.chunk",
        "created": completion.created,
        "model": completion.model,
    }
    logprobs = choice.logprobs.model_dump() if choice.logprobs else None
    deltas = [
        ({"role": "assistant", "content": "", "refusal": None}, None, None),
        ({"content": choice.message.content}, logprobs, None),
        ({}, None, choice.finish_reason),
    ]
    chunks: list[dict[str, Any]] = [
        base | {"choices": [{"index": 0, "delta": delta, "logprobs": scores, "finish_reason": reason}]}
        for delta, scores, reason in deltas
    ]
    chunks[-1]["crosslook"] = completion.crosslook.model_dump()
    if with_usage:
        chunks = [chunk | {"usage": None} for chunk in chunks]
        chunks.append(base | {"choices": [], "usage": completion.usage.model_dump()})
    return "".join(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
