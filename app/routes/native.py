"""The native routes: ``POST /v1/answer`` and ``GET /v1/models``."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from app import bodies, images, wire
from app.dependencies import EngineDep, SettingsDep, image_limits
from app.engine.engine import Answered
from app.errors import RequestError, item_error
from app.openapi import answer_body, errors
from app.settings import Settings
from crosslook.types import AnswerRequest, AnswerResponse, MapOptions, ModelCard, ModelLimits, ModelList
from model.interface import ItemError, MapRequest, ModelInfo

router = APIRouter(prefix="/v1", tags=["native"])
_STARTED = int(time.time())


@router.post(
    "/answer",
    response_model=AnswerResponse,
    openapi_extra={"requestBody": answer_body()},
    responses=errors(400, 404, 413, 415, 422, 503, 504),
    summary="Questions about one image",
)
async def answer(request: Request, engine: EngineDep, settings: SettingsDep) -> Response:
    """Ask one or more questions about one image; every answer comes with where the model looked.

    Send `multipart/form-data` (`image` file or `image_id`, `question` once or more) or JSON. All questions are
    answered or none: an error names the question at fault. The body depends on the request alone; the request id,
    stage times and whether the image was known are headers.
    """
    body, file = await bodies.read(request, AnswerRequest, repeated=ANSWER_LISTS)
    check_questions(body.questions, settings)
    source = images.choose(file=file, text=body.image, image_id=body.image_id, limits=image_limits(settings))
    info = require_model(engine.info, body.model)
    maps = map_request(body, info)
    candidates = None if body.candidates is None else tuple(dict.fromkeys(body.candidates))
    work = engine.run("answer", source, body.questions, candidates=candidates, top_k=body.top_k, maps=maps)
    try:
        answered = await bodies.unless_gone(request, work)
    except ItemError as error:
        raise item_error(error, "questions") from None
    start = time.perf_counter()
    output = answered.output
    if output is None:
        raise RequestError("internal_error", "The model gave no output.")
    content = wire.answer_response(
        info, answered.image_id, answered.geometry, body.questions, output, body.maps
    ).model_dump_json()
    headers = stage_headers(answered, format_seconds=time.perf_counter() - start)
    return Response(content, headers=headers, media_type="application/json")


ANSWER_LISTS = {"question": "questions", "questions": "questions", "candidates": "candidates", "layers": "layers"}


@router.get("/models", responses=errors(503), summary="What this server can do")
async def models(engine: EngineDep, settings: SettingsDep) -> ModelList:
    """The one model that is served, in OpenAI's list shape, with what it can do and what a request may hold."""
    info = require_model(engine.info, None)
    return ModelList(data=[card(info, settings)])


@router.get("/models/{model_id:path}", responses=errors(404, 503), summary="One model")
async def model(model_id: str, engine: EngineDep, settings: SettingsDep) -> ModelCard:
    """The entry of one model in the list."""
    return card(require_model(engine.info, model_id), settings)


def card(info: ModelInfo, settings: Settings) -> ModelCard:
    """The wire form of a model's description."""
    limits = ModelLimits(
        questions=settings.questions,
        question_characters=settings.question_characters,
        question_tokens=info.max_tokens,
        image_bytes=settings.image_bytes,
        image_pixels=settings.image_pixels,
        image_side=settings.image_side,
    )
    return wire.model_card(info, limits, _STARTED)


def require_model(info: ModelInfo | None, asked: str | None) -> ModelInfo:
    """The model that is served, if it is the one asked for.

    Raises: `RequestError` ``not_ready``, ``model_not_found``.
    """
    if info is None:
        raise RequestError("not_ready", "The model is starting.", retry_after=5.0)
    if asked is not None and asked != info.id:
        message = f"This server serves {info.id}, not {asked[:200]}."
        raise RequestError("model_not_found", message, param="model", detail={"served": [info.id]})
    return info


def check_questions(questions: Sequence[str], settings: Settings, *, field: str = "questions") -> None:
    """Raise `RequestError` for too many, empty or over-long questions, before anything costs."""
    if len(questions) > settings.questions:
        message = f"At most {settings.questions} questions a request; this one has {len(questions)}."
        raise RequestError("too_many_questions", message, param=field, detail={"max": settings.questions})
    for index, question in enumerate(questions):
        if not question.strip():
            raise RequestError("question_empty", f"Question {index} has no text.", param=f"{field}[{index}]")
        if len(question) > settings.question_characters:
            message = f"Question {index} has more than {settings.question_characters} characters."
            detail: dict[str, object] = {"max_characters": settings.question_characters, "characters": len(question)}
            raise RequestError("question_too_long", message, param=f"{field}[{index}]", detail=detail)


def map_request(options: MapOptions, info: ModelInfo) -> MapRequest | None:
    """The maps to make; None for none.

    Raises: `RequestError` ``map_not_supported``.
    """
    if options.maps == "none":
        return None
    kind = options.map_kind or info.default_map_kind
    if kind is None or kind not in info.map_kinds:
        message = f"{info.id} makes maps of kind {', '.join(info.map_kinds) or 'none'}."
        raise RequestError("map_not_supported", message, param="map_kind", detail={"kinds": list(info.map_kinds)})
    if options.layers is not None and not set(options.layers) <= set(info.layers):
        message = f"{info.id} has the layers {list(info.layers)}."
        raise RequestError("map_not_supported", message, param="layers", detail={"layers": list(info.layers)})
    layers = None if options.layers is None else tuple(sorted(set(options.layers)))
    return MapRequest(kind, layers)


def stage_headers(answered: Answered, *, format_seconds: float) -> dict[str, str]:
    """Where the time went, and whether the image was known: headers, so that bodies stay pure."""
    stages = answered.stages
    times = {
        "decode": stages.decode,
        "encode_wait": stages.encode_wait,
        "encode": stages.encode,
        "run_wait": stages.run_wait,
        "run": stages.run,
        "format": format_seconds,
    }
    timing = ", ".join(f"{name};dur={1000 * max(0.0, seconds):.2f}" for name, seconds in times.items())
    return {"Server-Timing": timing, "X-Cache": answered.cache}
