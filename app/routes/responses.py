"""OpenAI's newer dialect: ``POST /v1/responses``. How a conversation is read is in `app.conversation`.

The server keeps no conversation: what refers to an earlier one is refused. What makes no difference here (instructions,
temperature, reasoning ..) is ignored.
"""

from __future__ import annotations

import json
import time
from time import perf_counter
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Discriminator, Field, Tag

from app import conversation, wire
from app.conversation import MOST_MESSAGES, MOST_PARTS, ConversationRequest, Received, TokenLogProb, Tokens
from app.dependencies import AskerDep
from app.errors import TAG, RequestError, request_id_of
from app.image_names import LONGEST_NAME
from app.intake import bodies
from app.openapi import EXAMPLE_IMAGE, errors, json_body
from crosslook.types import AnswerResponse

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
    asked = await conversation.read(given, "input")
    answered, text, info = await conversation.answer(context, body, asked, choice)
    start = perf_counter()
    tokens = Tokens.of(answered, text)
    wanted = body.top_logprobs is not None or _LOGPROBS in (body.include or ())
    logprobs = conversation.log_probabilities(text, body.top_logprobs or 0) if wanted else []
    name = request_id_of(request)

    def content() -> str:
        said = text.ranking[0].answer if choice is None else choice.content(text.ranking[0].answer)
        response = ModelResponse(
            id=f"resp_{name}",
            created_at=int(time.time()),
            instructions=_short(body.instructions),
            model=info.id,
            output=[OutputMessage(id=f"msg_{name}", content=[OutputText(text=said, logprobs=logprobs)])],
            text={"format": wanted_format or {"type": "text"}},
            usage=ResponseUsage(
                input_tokens=tokens.text + tokens.image,
                input_tokens_details=InputTokens(
                    text_tokens=tokens.text, image_tokens=tokens.image, cached_tokens=tokens.cached
                ),
                output_tokens=tokens.answer,
                total_tokens=tokens.text + tokens.image + tokens.answer,
            ),
            crosslook=conversation.native(body, asked, answered, info),
        )
        return _events(response) if body.stream else response.model_dump_json()

    made = await wire.formatted(answered.output, content)
    answered.stages.add("format", start, perf_counter())
    kind = "text/event-stream" if body.stream else "application/json"
    return Response(made, headers=context.headers(answered), media_type=kind)


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


def _events(response: ModelResponse) -> str:
    """The response as server-sent events. It is complete before the first is sent, so errors have their status."""
    done = response.model_dump()
    begun = {name: value for name, value in done.items() if name != "crosslook"}
    begun |= {"status": "in_progress", "output": [], "usage": None}
    message = done["output"][0]
    part = message["content"][0]
    item = {"output_index": 0, "item_id": message["id"], "content_index": 0}
    events: list[tuple[str, dict[str, Any]]] = [
        ("created", {"response": begun}),
        ("in_progress", {"response": begun}),
        ("output_item.added", {"output_index": 0, "item": message | {"status": "in_progress", "content": []}}),
        ("content_part.added", item | {"part": part | {"text": "", "logprobs": []}}),
        ("output_text.delta", item | {"delta": part["text"], "logprobs": part["logprobs"]}),
        ("output_text.done", item | {"text": part["text"], "logprobs": part["logprobs"]}),
        ("content_part.done", item | {"part": part}),
        ("output_item.done", {"output_index": 0, "item": message}),
        ("completed", {"response": done}),
    ]
    lines = []
    for number, (kind, fields) in enumerate(events):
        event = {"type": f"response.{kind}", "sequence_number": number, **fields}
        lines.append(f"event: response.{kind}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n")
    return "".join(lines)
