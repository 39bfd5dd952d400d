"""The Open Inference Protocol, version 2 (KServe, Triton, OpenVINO, MLServer): ``/v2``.

A question is a request with two tensors, ``image`` (BYTES ``[1]``) and ``question`` (BYTES ``[n]``); options are its
parameters. Tensors come as JSON or in the *binary tensor data* extension, which Triton's client sends without being
asked; which of both is told by the header alone, for that client sends no Content-Type. Answers are JSON. The protocol
has no place for explanations, so maps are outputs.

Specification: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol and, for the
extension, https://docs.nvidia.com/deeplearning/triton-inference-server (extension_binary_data).
"""

from __future__ import annotations

from time import perf_counter
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel
from starlette.types import Scope

import crosslook
from app import wire
from app.dependencies import AskerDep, CallerDep, EngineDep
from app.errors import RequestError
from app.openapi import EXAMPLE_IMAGE, errors, json_body
from app.request_context import RequestContext, check_language, distinct, generation_of, map_request
from app.tensors import OUTPUTS, Asked, InferenceRequest, OutputTensor, outputs_of, parts
from model.interface import ModelInfo

PREFIX = "/v2"

router = APIRouter(prefix=PREFIX, tags=["open inference protocol"])

ModelName = Annotated[str, Path(description="The model's id; `GET /v1/models` lists it.")]


class InferenceResponse(BaseModel):
    """The protocol's response."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class TensorMetadata(BaseModel):
    """A tensor's type; -1 is any length."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    """Who answers."""

    name: str
    version: str
    extensions: list[str]


class InferenceError(BaseModel):
    """The body of every error of this protocol. The native code is in the header ``X-Error-Code``."""

    error: str


def plain_error(info: dict[str, Any]) -> dict[str, Any]:
    """The body of an error, of what the native envelope has inside ``error``."""
    return {"error": info["message"]}


@router.get("", summary="Server metadata")
async def server_metadata(_: CallerDep) -> ServerMetadata:
    """Name, version and extensions: tensors may be binary."""
    return ServerMetadata(name="crosslook", version=crosslook.__version__, extensions=["binary_tensor_data"])


@router.get("/health/live", summary="Is the server alive?")
async def server_live() -> dict[str, bool]:
    """As ``GET /health/live``. Servers disagree on the name, so there are both."""
    return {"live": True, "ready": True}


@router.get("/health/ready", responses=errors(503, envelope=InferenceError, wrap=plain_error), summary="Is it ready?")
async def server_ready(engine: EngineDep) -> dict[str, bool]:
    """As ``GET /health/ready``."""
    if not engine.ready:
        raise RequestError("not_ready", "No worker is ready.", retry_after=5.0)
    return {"live": True, "ready": True}


_ERRORS = errors(401, 404, 422, 503, envelope=InferenceError, wrap=plain_error)


# The longest first: a model's name may have slashes.
@router.get("/models/{model_name:path}/versions/{version}/ready", responses=_ERRORS, summary="Is that version ready?")
async def version_ready(model_name: ModelName, version: str, context: AskerDep) -> dict[str, Any]:
    """200 when that version of the model can answer now."""
    return _ready(context, _info(context, model_name, version))


@router.get("/models/{model_name:path}/ready", responses=_ERRORS, summary="Is the model ready?")
async def model_ready(model_name: ModelName, context: AskerDep) -> dict[str, Any]:
    """200 when the model can answer now."""
    return _ready(context, _info(context, model_name))


def _ready(context: RequestContext, info: ModelInfo) -> dict[str, Any]:
    if not context.engine.ready:
        raise RequestError("not_ready", "No worker is ready.", retry_after=5.0)
    return {"name": info.id, "ready": True}


@router.get("/models/{model_name:path}/versions/{version}", responses=_ERRORS, summary="A version's metadata")
async def version_metadata(model_name: ModelName, version: str, context: AskerDep) -> ModelMetadata:
    """The tensors that this version of the model takes and gives."""
    return _metadata(_info(context, model_name, version))


@router.get("/models/{model_name:path}", responses=_ERRORS, summary="Model metadata")
async def model_metadata(model_name: ModelName, context: AskerDep) -> ModelMetadata:
    """The tensors that the model takes and gives. Lengths that depend on the request are -1."""
    return _metadata(_info(context, model_name))


def _metadata(info: ModelInfo) -> ModelMetadata:
    known = {"rows": info.rows, "columns": info.columns, "one": 1, "edges": 4}
    return ModelMetadata(
        name=info.id,
        versions=[info.revision],
        platform="crosslook",
        inputs=[
            TensorMetadata(name="image", datatype="BYTES", shape=[1]),
            TensorMetadata(name="question", datatype="BYTES", shape=[-1]),
        ],
        outputs=[
            TensorMetadata(name=name, datatype=datatype, shape=[known.get(axis, -1) for axis in shape])
            for name, (datatype, shape) in OUTPUTS.items()
        ],
    )


_INFER: dict[str, Any] = {
    "response_model": InferenceResponse,
    "responses": errors(400, 401, 404, 408, 413, 415, 422, 429, 503, 504, envelope=InferenceError, wrap=plain_error),
    "openapi_extra": {
        "requestBody": json_body(
            InferenceRequest,
            examples={
                "a question": {
                    "inputs": [
                        {"name": "image", "shape": [1], "datatype": "BYTES", "data": [EXAMPLE_IMAGE]},
                        {"name": "question", "shape": [1], "datatype": "BYTES", "data": ["What color is the dot?"]},
                    ],
                    "parameters": {"top_k": 3, "maps": "float"},
                }
            },
        )
    },
}


@router.post("/models/{model_name:path}/versions/{version}/infer", summary="The same, of a version", **_INFER)
async def version_infer(request: Request, model_name: ModelName, version: str, context: AskerDep) -> Response:
    """Answer as that version of the model does, or not at all."""
    return await _infer(request, context, _info(context, model_name, version))


@router.post("/models/{model_name:path}/infer", summary="Questions about an image, as tensors", **_INFER)
async def infer(request: Request, model_name: ModelName, context: AskerDep) -> Response:
    """Answer. `image` is the file's bytes (binary), or base64, a data URI or a URL (JSON); an `image_id` tensor may
    stand in its place. Maps come with the parameter `maps` and as outputs `answer_map` and `question_map` (padded with
    zeros to the longest question); `result` is the body of `POST /v1/answer`.
    """
    return await _infer(request, context, _info(context, model_name))


async def _infer(request: Request, context: RequestContext, info: ModelInfo) -> Response:
    asked = Asked.read(*await parts(request))
    options = asked.options
    context.check_texts(asked.questions, field="question")
    maps = map_request(options, info)
    check_language(options.language, info)
    image = await context.image(file=asked.file, text=asked.text, image_id=asked.image_id)
    answered = await context.run(
        "answer",
        image,
        asked.questions,
        field="question",
        candidates=None if options.candidates is None else distinct(options.candidates),
        top_k=options.top_k,
        language=options.language,
        maps=maps,
        generation=generation_of(options, info),
    )
    start = perf_counter()

    def content() -> str:
        outputs = [each for each in outputs_of(answered, asked, info) if asked.wants(each.name)]
        return InferenceResponse(
            model_name=info.id, model_version=info.revision, id=asked.id, outputs=outputs
        ).model_dump_json()

    made = await wire.formatted(answered.output, content)
    answered.stages.add("format", start, perf_counter())
    return Response(made, headers=context.headers(answered), media_type="application/json")


def _info(context: RequestContext, name: str, version: str | None = None) -> ModelInfo:
    """The model, if it is the one named.

    Raises: `RequestError` ``model_not_found``, ``not_ready``.
    """
    info = context.model(name)
    if version not in (None, info.revision):
        raise RequestError("model_not_found", f"{name} is here as version {info.revision}.", param="version")
    return info


def is_ours(scope: Scope) -> bool:
    """Whether a request is one of this protocol, whose errors have its envelope."""
    path = str(scope["path"]).removeprefix(scope.get("root_path", ""))
    return path == PREFIX or path.startswith(f"{PREFIX}/")
