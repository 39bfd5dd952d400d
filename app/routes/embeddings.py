"""``POST /v1/embeddings``: texts and images as vectors of one space, in OpenAI's shape, by models that have one (CLIP,
SigLIP). That of two things is their dot product: how alike they are."""

from __future__ import annotations

import base64
from time import perf_counter
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from app.dependencies import AskerDep
from app.engine.engine import Uploaded
from app.errors import TAG, RequestError
from app.intake import bodies
from app.openapi import EXAMPLE_IMAGE, errors, json_body
from app.request_context import RequestContext

router = APIRouter(prefix="/v1", tags=["openai"])

_BLANK = base64.b64decode(EXAMPLE_IMAGE)
"""Texts are run against an image, whatever it is: this one is encoded once and kept."""
_ANY_TEXT = "image"
_MOST = 1000


class EmbeddingInput(BaseModel):
    """One text or one image."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = None
    image: str | None = Field(None, description="Base64, a data URI or, where the operator allows it, a URL.")


def _kind(value: object) -> str:
    return f"{TAG}text" if isinstance(value, str) else f"{TAG}list" if isinstance(value, list) else f"{TAG}one"


One = Annotated[
    Annotated[str, Tag(f"{TAG}text")] | Annotated[EmbeddingInput, Tag(f"{TAG}one")],
    Discriminator(lambda value: f"{TAG}text" if isinstance(value, str) else f"{TAG}one"),
]


class EmbeddingsRequest(BaseModel):
    """OpenAI's request. ``input`` may also hold objects with a ``text`` or an ``image``, or be images as texts are,
    with ``modality``. Tokens are refused: they would be another model's."""

    model: str | None = None
    input: Annotated[
        Annotated[str, Tag(f"{TAG}text")]
        | Annotated[EmbeddingInput, Tag(f"{TAG}one")]
        | Annotated[list[One], Field(min_length=1, max_length=_MOST, fail_fast=True), Tag(f"{TAG}list")],
        Discriminator(_kind),
    ]
    modality: Literal["text", "image"] = Field("text", description="What the strings of `input` are.")
    encoding_format: Literal["float", "base64"] = Field("float", description="base64: of float32, little-endian.")
    dimensions: int | None = Field(None, description="Refused unless it is the model's own.")


class Embedding(BaseModel):
    """One vector, of length 1."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens of the texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """OpenAI's response."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


@router.post(
    "/embeddings",
    response_model=EmbeddingList,
    openapi_extra={
        "requestBody": json_body(
            EmbeddingsRequest,
            examples={
                "two texts": {"input": ["a red dot", "a photo of a cat"]},
                "an image": {"input": [{"image": EXAMPLE_IMAGE}]},
            },
        )
    },
    responses=errors(400, 401, 404, 408, 413, 415, 422, 429, 503, 504),
    summary="Texts and images as vectors",
)
async def embeddings(request: Request, context: AskerDep) -> Response:
    """Vectors of texts and images, in one space. A model that has none refuses with 422 `task_not_supported`."""
    body = await bodies.read_json(request, EmbeddingsRequest)
    info = context.model(body.model, "embed")
    if body.dimensions not in (None, info.dimensions):
        message = f"dimensions: {info.id} has {info.dimensions}."
        raise RequestError("invalid_request", message, param="dimensions", detail={"dimensions": info.dimensions})
    inputs = [_as_input(one, body.modality) for one in (body.input if isinstance(body.input, list) else [body.input])]
    vectors, tokens, last = await _vectors(context, inputs)
    start = perf_counter()
    data = [
        Embedding(index=index, embedding=_encoded(vector, body.encoding_format)) for index, vector in enumerate(vectors)
    ]
    usage = EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens)
    content = EmbeddingList(data=data, model=info.id, usage=usage).model_dump_json()
    last.stages.add("format", start, perf_counter())
    return Response(content, headers=context.headers(last), media_type="application/json")


def _as_input(one: str | EmbeddingInput, modality: str) -> EmbeddingInput:
    if isinstance(one, str):
        return EmbeddingInput(text=one) if modality == "text" else EmbeddingInput(image=one)
    return one


async def _vectors(
    context: RequestContext, inputs: list[EmbeddingInput]
) -> tuple[list[NDArray[np.float32]], int, Uploaded]:
    """The vector of each input, the texts' tokens, and what came back last."""
    if len(inputs) > context.settings.questions:
        detail: dict[str, Any] = {"max": context.settings.questions}
        message = f"input: at most {context.settings.questions} a request; this one has {len(inputs)}."
        raise RequestError("too_many_questions", message, param="input", detail=detail)
    for index, one in enumerate(inputs):
        if (one.text is None) == (one.image is None):
            param = f"input[{index}]"
            raise RequestError("invalid_request", f"{param}: a text or an image.", param=param)
    found: dict[int, NDArray[np.float32]] = {}
    tokens, last = 0, None
    texts = {index: one.text for index, one in enumerate(inputs) if one.text is not None}
    context.check_texts([*texts.values()], field="input")
    if texts:
        blank = await context.by_value(_BLANK, param="input")
        last = await context.run("embed", blank, [*texts.values()], field="input")
        for index, text in zip(texts, last.output.texts, strict=True):
            tokens += text.token_count
            if text.embedding is not None:
                found[index] = text.embedding
    for index, one in enumerate(inputs):
        if one.image is not None:
            image = await context.image(text=one.image, param=f"input[{index}]")
            last = await context.run("embed", image, [_ANY_TEXT], field="input")
            if last.output.embedding is not None:
                found[index] = last.output.embedding
    if last is None or len(found) != len(inputs):
        raise RequestError("internal_error", "The model gave no vectors.")
    return [found[index] for index in range(len(inputs))], tokens, last


def _encoded(vector: NDArray[np.float32], encoding: str) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(f"{value:.7g}") for value in vector.tolist()]
