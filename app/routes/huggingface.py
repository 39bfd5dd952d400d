"""Hugging Face's dialect: one URL for every task, as an Inference Endpoint has, so that
``InferenceClient("http://host:8080")`` works as it is.

Which task is meant shows in the body. A question makes it visual question answering: documented is
``{"inputs": {"image", "question"}}``, and what ``huggingface_hub`` really sends is ``{"inputs": image, "question": ..,
"image": image}``; candidate labels make it zero-shot image classification; an image alone, in JSON or as the raw body,
image to text.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag
from starlette.types import Scope

from app.dependencies import AskerDep
from app.engine.engine import Answered
from app.errors import TAG, RequestError, only_text
from app.intake import bodies
from app.openapi import EXAMPLE_IMAGE, errors, json_body
from app.request_context import RequestContext

PATH = "/"

router = APIRouter(tags=["hugging face"])
_TEMPLATE = "This is a photo of {}."


class ImageAndQuestion(BaseModel):
    """One image and one question."""

    image: str = Field(description="Base64, a data URI or, where the operator allows it, a URL.")
    question: str | None = None


class TaskParameters(BaseModel):
    """Options of the three tasks."""

    model_config = ConfigDict(extra="forbid")

    top_k: int | None = Field(None, ge=1, le=50, description="How many answers, at most (5).")
    candidate_labels: list[str] | None = Field(
        None,
        min_length=1,
        max_length=200,
        fail_fast=True,
        description="No more than `limits.questions` of `GET /v1/models`.",
    )
    hypothesis_template: str | None = Field(_TEMPLATE, max_length=1000, description="`{}` stands for the label, once.")
    function_to_apply: Any = Field(None, description="Of image classification, which needs `candidate_labels` here.")

    # Of document question answering: they make no difference to a model that reads no text in pieces.
    doc_stride: Any = Field(None, description="Not read.")
    handle_impossible_answer: Any = Field(None, description="Not read.")
    lang: Any = Field(None, description="Not read.")
    max_answer_len: Any = Field(None, description="Not read.")
    max_question_len: Any = Field(None, description="Not read.")
    max_seq_len: Any = Field(None, description="Not read.")
    word_boxes: Any = Field(None, description="Not read.")


class HuggingFaceRequest(BaseModel):
    """A body of any of the tasks."""

    inputs: Annotated[
        Annotated[str, Tag(f"{TAG}image")] | Annotated[ImageAndQuestion, Tag(f"{TAG}object")],
        Discriminator(lambda value: f"{TAG}image" if isinstance(value, str) else f"{TAG}object"),
    ]
    question: str | None = None
    parameters: TaskParameters | None = None


class VisualAnswer(BaseModel):
    """An element of the response to a question."""

    score: float
    answer: str


class RankedLabel(BaseModel):
    """An element of the response to candidate labels."""

    score: float
    label: str


class GeneratedText(BaseModel):
    """The only element of the response to an image alone."""

    generated_text: str


class HuggingFaceError(BaseModel):
    """The body of every error of this dialect. ``error`` is the message, ``code`` one of the native codes."""

    error: str
    code: str
    param: str | None
    request_id: str | None
    detail: dict[str, Any] | None


def flat_error(info: dict[str, Any]) -> dict[str, Any]:
    """The body of an error, of what the native envelope has inside ``error``."""
    kept = {name: info[name] for name in ("code", "param", "request_id", "detail")}
    return HuggingFaceError(error=info["message"], **kept).model_dump()


@router.post(
    PATH,
    name="hugging_face",
    response_model=list[VisualAnswer] | list[RankedLabel] | list[GeneratedText],
    openapi_extra={
        "requestBody": json_body(
            HuggingFaceRequest,
            examples={
                "visual question answering": {
                    "inputs": {"image": EXAMPLE_IMAGE, "question": "What color is the dot?"},
                    "parameters": {"top_k": 2},
                },
                "zero-shot image classification": {
                    "inputs": EXAMPLE_IMAGE,
                    "parameters": {"candidate_labels": ["a red dot", "a cat"]},
                },
                "image to text": {"inputs": EXAMPLE_IMAGE},
            },
        )
    },
    responses=errors(400, 401, 408, 413, 415, 422, 429, 503, 504, envelope=HuggingFaceError, wrap=flat_error),
    summary="The tasks of huggingface_hub's InferenceClient",
)
async def hugging_face(request: Request, context: AskerDep) -> Response:
    """Answer, classify or describe, as the body asks. No maps: the native routes have them."""
    kind = bodies.media_type(request)
    if kind.startswith("image/") or kind in ("", "application/octet-stream"):
        _check_captions(context)
        data = await bodies.whole(request)
        return await _image_to_text(context, await context.by_value(data, param="inputs"))
    body = await bodies.read_json(request, HuggingFaceRequest)
    context.model(None)
    inside = body.inputs if isinstance(body.inputs, ImageAndQuestion) else ImageAndQuestion(image=body.inputs)
    parameters = body.parameters or TaskParameters()
    for place, question in (("question", body.question), ("inputs.question", inside.question)):
        if question is not None:
            with only_text(place):
                return await _answer(context, inside.image, question, parameters.top_k or 5)
    if parameters.candidate_labels is not None:
        return await _classify(context, inside.image, parameters.candidate_labels, parameters.hypothesis_template)
    if parameters.function_to_apply is not None or parameters.top_k is not None:
        message = "Without classes of its own the model needs candidate_labels (zero-shot image classification)."
        raise RequestError("task_not_supported", message, param="parameters.candidate_labels")
    _check_captions(context)
    return await _image_to_text(context, await context.image(text=inside.image, param="inputs"))


def _check_captions(context: RequestContext) -> None:
    """Raise `RequestError` ``task_not_supported`` for an image alone where the model writes no captions: its sender
    may have meant to ask."""
    info = context.model(None)
    if "caption" not in info.tasks:
        wanted = '{"inputs": {"image": .., "question": ..}}'
        message = f"An image alone asks for a caption, and {info.id} cannot caption. To ask about it, send {wanted}."
        raise RequestError("task_not_supported", message, param="inputs", detail={"tasks": list(info.tasks)})


async def _answer(context: RequestContext, text: str, question: str, top_k: int) -> Response:
    context.check_texts([question])
    image = await context.image(text=text, param="inputs")
    answered = await context.run("answer", image, [question], top_k=top_k)
    ranking = answered.output.texts[0].ranking
    return _response(context, answered, [VisualAnswer(score=r.score, answer=r.answer) for r in ranking])


async def _classify(context: RequestContext, text: str, labels: list[str], template: str | None) -> Response:
    template = _TEMPLATE if template is None else template
    if template.count("{}") != 1:
        message = "hypothesis_template must hold {} once, where the label goes."
        raise RequestError("invalid_request", message, param="parameters.hypothesis_template")
    field = "parameters.candidate_labels"
    context.check_texts(labels, field=field)
    context.check_distinct(labels, field=field)
    texts = [template.replace("{}", label) for label in labels]
    context.check_texts(texts, field=field)
    image = await context.image(text=text, param="inputs")
    answered = await context.run("match", image, texts, field=field)
    scores = [output.ranking[0].score for output in answered.output.texts]
    ranked = sorted(zip(scores, labels, strict=True), key=lambda pair: -pair[0])
    return _response(context, answered, [RankedLabel(score=score, label=label) for score, label in ranked])


async def _image_to_text(context: RequestContext, image: Any) -> Response:
    with only_text("inputs"):
        answered = await context.run("caption", image, [""])
    return _response(context, answered, [GeneratedText(generated_text=answered.output.texts[0].ranking[0].answer)])


def _response(context: RequestContext, answered: Answered, elements: list[Any]) -> Response:
    content = json.dumps([element.model_dump() for element in elements], ensure_ascii=False)
    return Response(content, headers=context.headers(answered), media_type="application/json")


def is_ours(scope: Scope) -> bool:
    """Whether a request is one of this dialect, whose errors have its envelope."""
    return scope["method"] == "POST" and scope["path"] in (PATH, scope.get("root_path", "") + PATH)
