"""The native routes beside answers: ``POST /v1/caption`` and ``POST /v1/match``."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

from fastapi import APIRouter, Request, Response

from app import wire
from app.dependencies import AskerDep
from app.engine.engine import Answered
from app.intake import bodies
from app.openapi import EXAMPLE_IMAGE, errors, two_encodings
from app.points import with_points
from app.request_context import RequestContext, map_request
from crosslook.types import CaptionRequest, CaptionResponse, MatchRequest, MatchResponse

router = APIRouter(prefix="/v1", tags=["native"])
_CAPTION_LISTS = {"prompt": "prompts", "prompts": "prompts", "layers": "layers", "heads": "heads"}
_MATCH_LISTS = {"text": "texts", "texts": "texts", "layers": "layers", "heads": "heads"}

Body = TypeVar("Body", CaptionResponse, MatchResponse)


@router.post(
    "/caption",
    response_model=CaptionResponse,
    openapi_extra={
        "requestBody": two_encodings(
            CaptionRequest,
            repeated={"prompts": "prompt"},
            examples={"one free caption": {"image": EXAMPLE_IMAGE, "prompts": [""]}},
        )
    },
    responses=errors(400, 401, 404, 408, 413, 415, 422, 429, 503, 504),
    summary="Captions of one image",
)
async def caption(request: Request, context: AskerDep) -> Response:
    """Describe an image; every word of the caption comes with where the model looked.

    `prompt` (once or more) is how a caption shall begin; none, or an empty one, leaves it free. A model that cannot
    caption refuses with 422 `task_not_supported`.
    """
    body, file = await bodies.read(request, CaptionRequest, repeated=_CAPTION_LISTS, may_be_empty=("prompts",))
    context.check_texts(body.prompts, field="prompts", may_be_empty=True)
    info = context.model(body.model, "caption")
    maps = map_request(body, info)
    image = await context.image(file=file, text=body.image, image_id=body.image_id)
    answered = await context.run("caption", image, body.prompts, field="prompts", maps=maps)

    def response() -> CaptionResponse:
        geometry, output = answered.geometry, answered.output
        return wire.caption_response(info, answered.image_id, geometry, body.prompts, output, body.maps)

    return await _respond(context, answered, response, points=body.points)


@router.post(
    "/match",
    response_model=MatchResponse,
    openapi_extra={
        "requestBody": two_encodings(
            MatchRequest,
            repeated={"texts": "text"},
            examples={"two texts": {"image": EXAMPLE_IMAGE, "texts": ["a red dot", "a photo of a cat"]}},
        )
    },
    responses=errors(400, 401, 404, 408, 413, 415, 422, 429, 503, 504),
    summary="How well texts fit one image",
)
async def match(request: Request, context: AskerDep) -> Response:
    """Compare texts with each other: which fits the image best? Scores sum to 1 over the texts of the request; where
    the model also has a probability for each pair by itself, it is `fit`.

    A model that cannot match refuses with 422 `task_not_supported`.
    """
    body, file = await bodies.read(request, MatchRequest, repeated=_MATCH_LISTS)
    context.check_texts(body.texts, field="texts")
    context.check_distinct(body.texts, field="texts")
    info = context.model(body.model, "match")
    maps = map_request(body, info)
    image = await context.image(file=file, text=body.image, image_id=body.image_id)
    answered = await context.run("match", image, body.texts, field="texts", maps=maps)

    def response() -> MatchResponse:
        geometry, output = answered.geometry, answered.output
        return wire.match_response(info, answered.image_id, geometry, body.texts, output, body.maps)

    return await _respond(context, answered, response, points=body.points)


async def _respond(
    context: RequestContext, answered: Answered, response: Callable[[], Body], *, points: bool
) -> Response:
    """The body that ``response`` makes, with its stage among the times."""
    start = perf_counter()

    def content() -> str:
        made = response()
        return wire.to_json(with_points(made) if points else made)

    written = await wire.formatted(answered.output, content)
    answered.stages.add("format", start, perf_counter())
    return Response(written, headers=context.headers(answered), media_type="application/json")
