"""OpenAI's older dialect: ``POST /v1/chat/completions``. (``GET /v1/models`` is native and has OpenAI's shape already.)

How a conversation is read is in `app.conversation`. What a caller may ask of OpenAI but not of this model (several
choices, tools, JSON) is refused. Temperature, max_tokens and their like make a difference only for models that write.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from time import perf_counter
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Discriminator, Field, Tag

from app import wire
from app.choices import Choice
from app.conversation import answers, messages
from app.conversation.answers import TokenLogProb, Tokens
from app.conversation.messages import MOST_MESSAGES, Asked, Received
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
from model.interface import ModelInfo, Progress, TextOutput

router = APIRouter(prefix="/v1", tags=["openai"])


class ImageURL(BaseModel):
    """Where an image is."""

    url: str = Field(description="A data URI or, where the operator allows it, a URL.")


class ChatContentPart(BaseModel):
    """A piece of a message. An image may also be its URL alone."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageURL | None = None
    uuid: str | None = Field(
        None,
        max_length=LONGEST_NAME,
        description="A name for the image, yours alone: by it the image can be asked about later, without `image_url`.",
    )


Content = Annotated[
    Annotated[str, Tag(f"{TAG}text")]
    | Annotated[list[ChatContentPart], Field(max_length=1000, fail_fast=True), Tag(f"{TAG}parts")],
    Discriminator(lambda value: f"{TAG}text" if isinstance(value, str) else f"{TAG}parts"),
]


class ChatMessage(BaseModel):
    """One message of the conversation. Only user messages are read."""

    role: str
    content: Content | None = None


class StreamOptions(BaseModel):
    """How to stream."""

    include_usage: bool | None = False


class ChatRequest(ConversationRequest):
    """The part of OpenAI's request that matters here, and the options of ``POST /v1/answer``."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    max_tokens: int | None = Field(None, ge=1, description="The most tokens of the answer, by models that write.")
    max_completion_tokens: int | None = Field(None, ge=1, description="The newer name of `max_tokens`.")
    n: int | None = Field(None, description="Anything but 1 is refused.")
    response_format: dict[str, Any] | None = Field(
        None,
        description="Text, or a JSON schema that is a choice: an enum of texts, or an object of one such field.",
    )

    @property
    def limit(self) -> int | None:
        """The most tokens of the answer."""
        return self.max_completion_tokens or self.max_tokens


class _Body(ChatRequest):
    """The body as it is read."""

    # Wider than the document, on purpose.
    messages: list[Received] = Field(  # type: ignore[assignment]
        min_length=1, max_length=MOST_MESSAGES, fail_fast=True
    )


class LogProbs(BaseModel):
    """One entry a token, or one for the whole answer where it is a choice."""

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
    finish_reason: Literal["stop", "length"] = "stop"


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


_EXAMPLE = {
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What color is the dot?"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{EXAMPLE_IMAGE}"}},
            ],
        }
    ]
}


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    openapi_extra={"requestBody": json_body(ChatRequest, examples={"a question": _EXAMPLE})},
    responses=errors(400, 401, 404, 408, 413, 415, 422, 429, 503, 504),
    summary="A question about an image, as OpenAI's clients put it",
)
async def chat_completions(request: Request, context: AskerDep) -> Response:
    """Answer the last user message about the image beside it (an `image_url` part; `stream: true` works too).

    Scores, ranking and, with `maps`, attention maps are in the extra field `crosslook`; `logprobs` are those of whole
    answers.
    """
    body = await bodies.read_json(request, _Body)
    if body.n not in (None, 1):
        raise RequestError("invalid_request", "n: this model gives one answer; `crosslook` ranks others.", param="n")
    body.refuse_tools()
    choice = body.choice(body.response_format, "response_format")
    asked = await messages.read(body.messages, "messages", most=context.most_images)
    if body.stream:
        return await _stream(request, context, body, asked, choice)
    answered, text, info = await answers.answer(context, body, asked, choice)
    start = perf_counter()

    def content() -> str:
        said = text.ranking[0].answer if choice is None else choice.content(text.ranking[0].answer)
        return _completion(request, body, asked, answered, text, info, said).model_dump_json()

    made = await wire.formatted(answered.output, content)
    answered.stages.add("format", start, perf_counter())
    return Response(made, headers=context.headers(answered), media_type="application/json")


async def _stream(
    request: Request, context: RequestContext, body: _Body, asked: Asked, choice: Choice | None
) -> Response:
    """The completion in chunks, as it is written; in one where the model does not write token by token."""
    info = context.model(body.model)

    async def run(on_progress: Callable[[Progress], None]) -> Answered:
        return (await answers.answer(context, body, asked, choice, on_progress))[0]

    followed = await Followed.begin(run)
    chunks = _Chunks(request, info, with_usage=bool(body.stream_options and body.stream_options.include_usage))

    async def events() -> AsyncIterator[str]:
        yield chunks.make({"role": "assistant", "content": "", "refusal": None})
        written = False
        async for step in followed.progress():
            written = True
            scores = [answers.token_log_probability(choice).model_dump() for choice in step.choices]
            yield chunks.make({"content": step.text}, {"content": scores} if body.logprobs else None)
        answered = await followed.answered()
        start = perf_counter()
        text = answered.output.texts[0]

        def last() -> str:
            said = text.ranking[0].answer if choice is None else choice.content(text.ranking[0].answer)
            completion = _completion(request, body, asked, answered, text, info, said)
            only, whole = completion.choices[0], ""
            if not written:
                scores = only.logprobs.model_dump() if only.logprobs else None
                whole = chunks.make({"content": only.message.content}, scores)
            extra = {"crosslook": completion.crosslook.model_dump()}
            return whole + chunks.make({}, reason=only.finish_reason, extra=extra) + chunks.usage(completion.usage)

        made = await wire.formatted(answered.output, last)
        answered.stages.add("format", start, perf_counter())
        context.headers(answered)  # for the metrics; those of the response are gone
        yield made + event("[DONE]")

    return respond(followed, events(), lambda error: error_event(error, request_id_of(request)))


class _Chunks:
    """The chunks of one completion."""

    def __init__(self, request: Request, info: ModelInfo, *, with_usage: bool) -> None:
        self._base: dict[str, Any] = {
            "id": f"chatcmpl-{request_id_of(request)}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": info.id,
        }
        self._with_usage = with_usage

    def make(
        self,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
        *,
        reason: str | None = None,
        extra: dict[str, Any] | None = None,
    ) -> str:
        """One chunk's event."""
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        usage = {"usage": None} if self._with_usage else {}
        return event(self._base | {"choices": [choice]} | usage | (extra or {}))

    def usage(self, usage: ChatUsage) -> str:
        """The last chunk, for those who ask for it."""
        return event(self._base | {"choices": [], "usage": usage.model_dump()}) if self._with_usage else ""


def _completion(
    request: Request, body: _Body, asked: Asked, answered: Answered, text: TextOutput, info: ModelInfo, said: str
) -> ChatCompletion:
    tokens = Tokens.of(answered, text)
    logprobs = LogProbs(content=answers.log_probabilities(text, body.top_logprobs or 0)) if body.logprobs else None
    return ChatCompletion(
        id=f"chatcmpl-{request_id_of(request)}",
        created=int(time.time()),
        model=info.id,
        choices=[ChatChoice(message=AssistantMessage(content=said), logprobs=logprobs, finish_reason=text.finish)],
        usage=ChatUsage(
            prompt_tokens=tokens.text + tokens.image,
            completion_tokens=tokens.answer,
            total_tokens=tokens.text + tokens.image + tokens.answer,
            prompt_tokens_details=PromptTokens(
                text_tokens=tokens.text, image_tokens=tokens.image, cached_tokens=tokens.cached
            ),
        ),
        crosslook=answers.native(body, asked, answered, info),
    )
