"""OpenAI's newer dialect: ``POST /v1/responses``. How a conversation is read is in `app.conversation`.

The server keeps no conversation: what refers to an earlier one is refused. What makes no difference here (instructions,
temperature, reasoning ..) is ignored.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Discriminator, Field, Tag

from app import wire
from app.choices import Choice
from app.conversation import answers, messages
from app.conversation.answers import TokenLogProb, Tokens
from app.conversation.messages import MOST_MESSAGES, MOST_PARTS, Asked, Received
from app.conversation.options import ConversationRequest
from app.dependencies import AskerDep
from app.engine.engine import Answered
from app.errors import TAG, RequestError, request_id_of
from app.image_names import LONGEST_NAME
from app.intake import bodies
from app.openapi import EXAMPLE_IMAGE, errors, json_body
from app.request_context import RequestContext
from app.streaming import Followed, error_event, event, respond
from crosslook.types import AnswerResponse
from model.interface import ModelInfo, Progress

router = APIRouter(prefix="/v1", tags=["openai"])

_KEPT = ("previous_response_id", "conversation", "prompt")  # what names something that OpenAI would have kept
_LOGPROBS = "message.output_text.logprobs"
_LONGEST_ECHO = 10_000  # characters


class InputPart(BaseModel):
    """A piece of a message."""

    type: Literal["input_text", "input_image"]
    text: str | None = None
    image_url: str | None = Field(None, description="A data URI or, where the operator allows it, a URL.")
    uuid: str | None = Field(
        None,
        max_length=LONGEST_NAME,
        description="A name for the image, yours alone: by it the image can be asked about later, without `image_url`.",
    )


class InputMessage(BaseModel):
    """One message of the conversation. Only user messages are read."""

    role: str
    content: Annotated[
        Annotated[str, Tag(f"{TAG}text")]
        | Annotated[list[InputPart], Field(max_length=MOST_PARTS, fail_fast=True), Tag(f"{TAG}parts")],
        Discriminator(lambda value: f"{TAG}text" if isinstance(value, str) else f"{TAG}parts"),
    ]


class TextFormat(BaseModel):
    """How the answer is written."""

    format: dict[str, Any] | None = Field(
        None,
        description="Text, or a JSON schema that is a choice: an enum of texts, or an object of one such field.",
    )


class ResponseRequest(ConversationRequest):
    """The part of OpenAI's request that matters here, and the options of ``POST /v1/answer``."""

    input: list[InputMessage] = Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)
    instructions: str | None = Field(None, description="Not read.")
    text: TextFormat | None = None
    include: list[str] | None = Field(
        None, max_length=100, fail_fast=True, description=f"`{_LOGPROBS}` gives the logarithms of scores."
    )
    max_output_tokens: int | None = Field(None, ge=1, description="The most tokens of the answer.")
    background: bool | None = Field(None, description="Refused: answers are given at once.")
    previous_response_id: str | None = Field(None, description="Refused: this server keeps no conversation.")
    conversation: str | dict[str, Any] | None = Field(None, description="Refused: this server keeps no conversation.")
    prompt: dict[str, Any] | None = Field(None, description="Refused: this server keeps no prompts.")

    @property
    def limit(self) -> int | None:
        """The most tokens of the answer."""
        return self.max_output_tokens


class _Body(ResponseRequest):
    """The body as it is read: wider than the document, on purpose. Items without a role are no messages."""

    input: Annotated[  # type: ignore[assignment]
        Annotated[str, Tag(f"{TAG}text")]
        | Annotated[list[Received], Field(max_length=MOST_MESSAGES, fail_fast=True), Tag(f"{TAG}items")],
        Discriminator(lambda value: f"{TAG}text" if isinstance(value, str) else f"{TAG}items"),
    ]
    instructions: Any = None


class OutputText(BaseModel):
    """The answer."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = []
    logprobs: list[TokenLogProb] = []


class OutputMessage(BaseModel):
    """The only item of the output."""

    type: Literal["message"] = "message"
    id: str
    status: Literal["completed"] = "completed"
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class InputTokens(BaseModel):
    """What the input is made of. ``cached_tokens``: the image's, where it was encoded before."""

    text_tokens: int
    image_tokens: int
    cached_tokens: int


class OutputTokens(BaseModel):
    """There is no reasoning."""

    reasoning_tokens: int = 0


class ResponseUsage(BaseModel):
    """Tokens of the question and patches of the image; tokens of the answer (1 where it is a choice)."""

    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: OutputTokens = OutputTokens()
    total_tokens: int


class ModelResponse(BaseModel):
    """OpenAI's response. ``crosslook`` is what ``POST /v1/answer`` would say: scores, ranking, maps."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["completed"] = "completed"
    error: None = None
    incomplete_details: None = None
    instructions: Any = None
    metadata: dict[str, str] = {}
    model: str
    output: list[OutputMessage]
    parallel_tool_calls: bool = False
    previous_response_id: None = None
    store: bool = False
    temperature: None = None
    text: dict[str, Any] = {"format": {"type": "text"}}
    tool_choice: str = "none"
    tools: list[Any] = []
    top_p: None = None
    truncation: str = "disabled"
    usage: ResponseUsage
    crosslook: AnswerResponse


_EXAMPLE = {
    "input": [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What color is the dot?"},
                {"type": "input_image", "image_url": f"data:image/png;base64,{EXAMPLE_IMAGE}"},
            ],
        }
    ]
}


@router.post(
    "/responses",
    response_model=ModelResponse,
    openapi_extra={"requestBody": json_body(ResponseRequest, examples={"a question": _EXAMPLE})},
    responses=errors(400, 401, 404, 408, 413, 415, 422, 429, 503, 504),
    summary="A question about an image, as OpenAI's clients put it since 2025",
)
async def responses(request: Request, context: AskerDep) -> Response:
    """Answer the last user message about the image beside it (an `input_image` part; `stream: true` works too).

    Scores, ranking and, with `maps`, attention maps are in the extra field `crosslook`. Nothing is kept.
    """
    body = await bodies.read_json(request, _Body)
    _refuse(body)
    wanted_format = None if body.text is None else body.text.format
    choice = body.choice(wanted_format, "text.format")
    given = [Received(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    asked = await messages.read(given, "input", most=context.most_images)
    named = _Named(request_id_of(request), int(time.time()), wanted_format or {"type": "text"})
    if body.stream:
        return await _stream(context, body, asked, choice, named)
    answered, _, info = await answers.answer(context, body, asked, choice)
    start = perf_counter()

    def content() -> str:
        return _response(body, asked, answered, info, choice, named).model_dump_json()

    made = await wire.formatted(answered.output, content)
    answered.stages.add("format", start, perf_counter())
    return Response(made, headers=context.headers(answered), media_type="application/json")


@dataclass(frozen=True, slots=True)
class _Named:
    """What a response has from the start: the request's id, its time, and the format of its text."""

    request_id: str | None
    created: int
    format: dict[str, Any]


def _wants_logprobs(body: _Body) -> bool:
    return body.top_logprobs is not None or _LOGPROBS in (body.include or ())


def _response(
    body: _Body, asked: Asked, answered: Answered, info: ModelInfo, choice: Choice | None, named: _Named
) -> ModelResponse:
    """The whole response."""
    text = answered.output.texts[0]
    tokens = Tokens.of(answered, text)
    logprobs = answers.log_probabilities(text, body.top_logprobs or 0) if _wants_logprobs(body) else []
    said = text.ranking[0].answer if choice is None else choice.content(text.ranking[0].answer)
    return ModelResponse(
        id=f"resp_{named.request_id}",
        created_at=named.created,
        instructions=_short(body.instructions),
        model=info.id,
        output=[OutputMessage(id=f"msg_{named.request_id}", content=[OutputText(text=said, logprobs=logprobs)])],
        text={"format": named.format},
        usage=ResponseUsage(
            input_tokens=tokens.text + tokens.image,
            input_tokens_details=InputTokens(
                text_tokens=tokens.text, image_tokens=tokens.image, cached_tokens=tokens.cached
            ),
            output_tokens=tokens.answer,
            total_tokens=tokens.text + tokens.image + tokens.answer,
        ),
        crosslook=answers.native(body, asked, answered, info),
    )


async def _stream(context: RequestContext, body: _Body, asked: Asked, choice: Choice | None, named: _Named) -> Response:
    """The response's events, as the answer is written; in one piece where the model does not write token by token."""
    info = context.model(body.model)

    async def run(on_progress: Callable[[Progress], None]) -> Answered:
        return (await answers.answer(context, body, asked, choice, on_progress))[0]

    followed = await Followed.begin(run)
    known: dict[str, Any] = {
        "id": f"resp_{named.request_id}",
        "created_at": named.created,
        "instructions": _short(body.instructions),
        "model": info.id,
        "output": [],
        "text": {"format": named.format},
    }
    # What it has at the end alone, usage and `crosslook`, is not there yet.
    begun = ModelResponse.model_construct(**known).model_dump() | {"status": "in_progress", "usage": None}
    message: dict[str, Any] = OutputMessage(id=f"msg_{named.request_id}", content=[]).model_dump()
    part: dict[str, Any] = OutputText(text="").model_dump()
    item = {"output_index": 0, "item_id": message["id"], "content_index": 0}
    numbers = itertools.count()

    def one(kind: str, fields: dict[str, Any]) -> str:
        whole = {"type": f"response.{kind}", "sequence_number": next(numbers), **fields}
        return event(whole, f"response.{kind}")

    async def events() -> AsyncIterator[str]:
        yield one("created", {"response": begun}) + one("in_progress", {"response": begun})
        yield one("output_item.added", {"output_index": 0, "item": message | {"status": "in_progress"}})
        yield one("content_part.added", item | {"part": part})
        written = False
        async for step in followed.progress():
            written = True
            scores = [answers.token_log_probability(c).model_dump() for c in step.choices]
            yield one(
                "output_text.delta", item | {"delta": step.text, "logprobs": scores if _wants_logprobs(body) else []}
            )
        answered = await followed.answered()
        start = perf_counter()

        def last() -> str:
            done = _response(body, asked, answered, info, choice, named).model_dump()
            said = done["output"][0]["content"][0]
            text = {"text": said["text"], "logprobs": said["logprobs"]}
            delta = (
                ""
                if written
                else one("output_text.delta", item | {"delta": said["text"], "logprobs": said["logprobs"]})
            )
            return (
                delta
                + one("output_text.done", item | text)
                + one("content_part.done", item | {"part": said})
                + one("output_item.done", {"output_index": 0, "item": done["output"][0]})
                + one("completed", {"response": done})
            )

        made = await wire.formatted(answered.output, last)
        answered.stages.add("format", start, perf_counter())
        context.headers(answered)  # for the metrics; those of the response are gone
        yield made

    return respond(followed, events(), lambda error: error_event(error, named.request_id, "error"))


def _short(instructions: Any) -> str | None:
    """What is given back of instructions: nothing of those that would make an answer as large as a body."""
    return instructions if isinstance(instructions, str) and len(instructions) <= _LONGEST_ECHO else None


def _refuse(body: _Body) -> None:
    """Raise `RequestError` for what would change the answer and cannot be done."""
    body.refuse_tools()
    if body.background:
        raise RequestError("invalid_request", "background: answers are given at once.", param="background")
    for name in _KEPT:
        if getattr(body, name) is not None:
            raise RequestError("invalid_request", f"{name}: this server keeps none; send all of it.", param=name)
