"""The Open Inference Protocol, version 2 (KServe, Triton, OpenVINO, MLServer): ``/v2``.

A question is a request with two tensors, ``image`` (BYTES ``[1]``) and ``question`` (BYTES ``[n]``); options are its
parameters. Tensors come as JSON or in the *binary tensor data* extension, which Triton's client sends without being
asked; which of both is told by the header alone, for that client sends no Content-Type. Answers are JSON. The protocol
has no place for explanations, so maps are outputs.

Specification: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol and, for the
extension, https://docs.nvidia.com/deeplearning/triton-inference-server (extension_binary_data).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field, ValidationError
from starlette.types import Scope

import crosslook
from app import wire
from app.dependencies import AskerDep, CallerDep, EngineDep
from app.engine.engine import Answered
from app.errors import RequestError, validation_error
from app.intake import bodies
from app.openapi import EXAMPLE_IMAGE, errors, json_body
from app.request_context import RequestContext, check_language, distinct, generation_of, map_request
from crosslook.types import AnswerOptions
from model.interface import Map, ModelInfo, Output

PREFIX = "/v2"
_JSON_LENGTH = "Inference-Header-Content-Length"
_LENGTH = struct.Struct("<I")  # in front of each element of a BYTES tensor
_MOST_TENSORS = 16

router = APIRouter(prefix=PREFIX, tags=["open inference protocol"])

ModelName = Annotated[str, Path(description="The model's id; `GET /v1/models` lists it.")]


class Tensor(BaseModel):
    """An input. Its ``data`` are texts; in the binary extension they stand behind the JSON, and the parameter
    ``binary_data_size`` says how many bytes they are."""

    name: str
    shape: list[int] = Field(max_length=8)
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class RequestedOutput(BaseModel):
    """An output that is wanted; without any, all are."""

    name: str
    parameters: dict[str, Any] | None = None


class InferenceRequest(BaseModel):
    """The protocol's request. ``parameters`` are those of ``POST /v1/answer``: ``top_k``, ``maps``, ``map_kind``,
    ``layers`` and ``candidates`` (these two also as a text with commas, for a parameter may be no list), ``points``."""

    id: str | None = None
    parameters: dict[str, Any] | None = None
    inputs: list[Tensor] = Field(min_length=1, max_length=_MOST_TENSORS, fail_fast=True)
    outputs: list[RequestedOutput] | None = Field(None, max_length=_MOST_TENSORS, fail_fast=True)


class OutputTensor(BaseModel):
    """An output: its values, row-major."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


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


_OUTPUTS = {
    "answer": ("BYTES", ("questions",)),
    "score": ("FP32", ("questions",)),
    "answer_map": ("FP32", ("questions", "rows", "columns")),
    "question_map": ("FP32", ("questions", "tokens", "rows", "columns")),
    "region": ("FP32", ("edges",)),
    "result": ("BYTES", ("one",)),
}


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
            for name, (datatype, shape) in _OUTPUTS.items()
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
    asked = _Asked.read(*await _parts(request))
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
        outputs = [each for each in _outputs(answered, asked, info) if asked.wants(each.name)]
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


async def _parts(request: Request) -> tuple[InferenceRequest, bytes]:
    """The JSON of a request, and what stands behind it.

    Raises: `RequestError` ``malformed_request``, ``invalid_request``.
    """
    body = await request.body()
    length = request.headers.get(_JSON_LENGTH)
    if length is None:
        return await bodies.validated(body, InferenceRequest), b""
    if not (length.isascii() and length.isdecimal()) or int(length) > len(body):
        raise RequestError("malformed_request", f"{_JSON_LENGTH} is no length within the body.", param=_JSON_LENGTH)
    size = int(length)
    return await bodies.validated(body[:size], InferenceRequest), body[size:]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request asks."""

    id: str | None
    questions: list[str]
    options: AnswerOptions
    outputs: frozenset[str] | None
    file: bytes | None = None
    text: str | None = None
    image_id: str | None = None

    def wants(self, name: str) -> bool:
        """Whether an output shall be in the response."""
        return self.outputs is None or name in self.outputs

    @classmethod
    def read(cls, body: InferenceRequest, behind: bytes) -> _Asked:
        """Raises: `RequestError` ``invalid_request``, ``malformed_request``."""
        tensors: dict[str, list[str] | list[bytes]] = {}
        for index, tensor in enumerate(body.inputs):
            place = f"inputs[{index}]"
            if tensor.name not in ("image", "image_id", "question") or tensor.name in tensors:
                message = f"{place}: one image or image_id and one question, not {tensor.name[:50]}."
                raise RequestError("invalid_request", message, param=place)
            size = (tensor.parameters or {}).get("binary_data_size")
            if size is not None:
                if not (isinstance(size, int) and 0 <= size <= len(behind)):
                    message = f"{place}: binary_data_size is no size within the body."
                    raise RequestError("malformed_request", message, param=place)
                tensors[tensor.name] = [*_elements(behind[:size], place)]
                behind = behind[size:]
            elif tensor.data is None or not all(isinstance(value, str) for value in _flat(tensor.data)):
                raise RequestError("invalid_request", f"{place}.data: must be texts.", param=f"{place}.data")
            else:
                tensors[tensor.name] = [*_flat(tensor.data)]
            if tensor.datatype != "BYTES" or _product(tensor.shape) != len(tensors[tensor.name]):
                message = f"{place}: must be BYTES, and have as many elements as its shape says."
                raise RequestError("invalid_request", message, param=place)
        questions = [_text(each, "question") for each in tensors.get("question", [])]
        if not questions:
            raise RequestError("invalid_request", "Field required: question.", param="question")
        image, image_id = tensors.get("image", []), tensors.get("image_id", [])
        if len(image) + len(image_id) != 1:
            raise RequestError("invalid_request", "Give one image.", param="image")
        wanted = None if not body.outputs else frozenset(output.name for output in body.outputs)
        if unknown := sorted((wanted or frozenset()) - set(_OUTPUTS)):
            message = f"outputs: there is no {unknown[0][:50]}; there are {', '.join(_OUTPUTS)}."
            raise RequestError("invalid_request", message, param="outputs")
        one = image[0] if image else None
        return cls(
            body.id,
            questions,
            _options(body.parameters or {}, wanted),
            wanted,
            file=one if isinstance(one, bytes) else None,
            text=one if isinstance(one, str) else None,
            image_id=_text(image_id[0], "image_id") if image_id else None,
        )


def _options(parameters: Mapping[str, Any], wanted: frozenset[str] | None) -> AnswerOptions:
    """The options of the native route among the parameters. Others are the protocol's or another server's, and make no
    difference. Maps are made where an output is asked for that is one."""
    given = {name: parameters[name] for name in AnswerOptions.model_fields if name in parameters and name != "model"}
    for name in ("candidates", "layers"):
        if isinstance(value := given.get(name), str):
            given[name] = (
                [part.strip() for part in value.split(",")] if not value.startswith("[") else _list(value, name)
            )
    given.setdefault("maps", "float" if {"answer_map", "question_map"} & (wanted or set()) else "none")
    try:
        return AnswerOptions.model_validate(given)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise validation_error([{**each, "loc": ("parameters", *each["loc"])} for each in problems]) from None


def _list(value: str, name: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        message = f"parameters.{name}: neither a list in JSON nor texts with commas."
        raise RequestError("invalid_request", message, param=f"parameters.{name}") from None


def _flat(data: list[Any]) -> Iterator[Any]:
    """A tensor's data: flat, or nested as its shape."""
    for value in data:
        if isinstance(value, list):
            yield from value if not any(isinstance(each, list) for each in value) else [None]
        else:
            yield value


def _product(shape: list[int]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product


def _elements(data: bytes, place: str) -> Iterator[bytes]:
    """The elements of a binary BYTES tensor: each behind its length.

    Raises: `RequestError` ``malformed_request``.
    """
    start = 0
    while start < len(data):
        end = start + _LENGTH.size
        size = _LENGTH.unpack_from(data, start)[0] if end <= len(data) else 0
        if end > len(data) or end + size > len(data):
            raise RequestError("malformed_request", f"{place}: an element is cut off.", param=place)
        yield data[end : end + size]
        start = end + size


def _text(value: str | bytes, param: str) -> str:
    try:
        return value if isinstance(value, str) else value.decode()
    except UnicodeDecodeError:
        raise RequestError("invalid_request", f"{param}: no UTF-8.", param=param) from None


def _outputs(answered: Answered, asked: _Asked, info: ModelInfo) -> Iterator[OutputTensor]:
    """All that there is to give."""
    output, geometry = answered.output, answered.geometry
    texts = output.texts
    best = [text.ranking[0] for text in texts]
    yield OutputTensor(name="answer", shape=[len(best)], datatype="BYTES", data=[each.answer for each in best])
    scores = [wire.number(each.score, 6) for each in best]
    yield OutputTensor(name="score", shape=[len(best)], datatype="FP32", data=scores)
    if output.maps is not None:
        yield from _maps(output, geometry.rows, geometry.columns)
        region = geometry.region
        edges = [region.left, region.top, region.right, region.bottom]
        yield OutputTensor(name="region", shape=[4], datatype="FP32", data=edges)
    if asked.wants("result"):
        choice = asked.options.maps
        native = wire.answer_response(info, answered.image_id, geometry, asked.questions, output, choice)
        yield OutputTensor(name="result", shape=[1], datatype="BYTES", data=[wire.to_json(native)])


def _maps(output: Output, rows: int, columns: int) -> Iterator[OutputTensor]:
    """``answer_map`` ``[questions, rows, columns]`` and ``question_map`` ``[questions, tokens, rows, columns]``."""
    count, longest = len(output.texts), max(len(text.tokens) for text in output.texts)
    whole = np.zeros((count, rows, columns), np.float32)
    tokens = np.zeros((count, longest, rows, columns), np.float32)

    def put(place: Any, found: Map | None) -> None:
        if found is not None:
            place[...] = found.values

    for index, text in enumerate(output.texts):
        put(whole[index], text.answer_map)
        for number, token in enumerate(text.tokens):
            put(tokens[index, number], token.map)
    for name, values in (("answer_map", whole), ("question_map", tokens)):
        data = wire.significant(values.ravel()).tolist()
        yield OutputTensor(name=name, shape=list(values.shape), datatype="FP32", data=data)


def is_ours(scope: Scope) -> bool:
    """Whether a request is one of this protocol, whose errors have its envelope."""
    path = str(scope["path"]).removeprefix(scope.get("root_path", ""))
    return path == PREFIX or path.startswith(f"{PREFIX}/")
