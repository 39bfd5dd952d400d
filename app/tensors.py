"""The tensors of the Open Inference Protocol: what a request's inputs ask, and what an answer is as outputs.

See `app.routes.inference_v2`, which speaks the protocol with them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import Request
from pydantic import BaseModel, Field, ValidationError

from app import wire
from app.engine.engine import Answered
from app.errors import RequestError, validation_error
from app.intake import bodies
from crosslook.types import AnswerOptions
from model.interface import Map, ModelInfo, Output

_JSON_LENGTH = "Inference-Header-Content-Length"
_LENGTH = struct.Struct("<I")  # in front of each element of a BYTES tensor
_MOST_TENSORS = 16
_MOST_ELEMENTS = 1000
"""Of a binary tensor: an empty one is four bytes, and a body has room for millions. As many as the native route has
questions; JSON's are bounded by `app.intake.bodies`."""


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
    ``layers``, ``heads`` and ``candidates`` (these also as a text with commas, for a parameter may be no list),
    ``points``."""

    id: str | None = Field(None, max_length=1000)
    parameters: dict[str, Any] | None = None
    inputs: list[Tensor] = Field(min_length=1, max_length=_MOST_TENSORS, fail_fast=True)
    outputs: list[RequestedOutput] | None = Field(None, max_length=_MOST_TENSORS, fail_fast=True)


class OutputTensor(BaseModel):
    """An output: its values, row-major."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


OUTPUTS = {
    "answer": ("BYTES", ("questions",)),
    "score": ("FP32", ("questions",)),
    "answer_map": ("FP32", ("questions", "rows", "columns")),
    "question_map": ("FP32", ("questions", "tokens", "rows", "columns")),
    "region": ("FP32", ("edges",)),
    "result": ("BYTES", ("one",)),
}


async def parts(request: Request) -> tuple[InferenceRequest, bytes]:
    """The JSON of a request, and what stands behind it.

    Raises: `RequestError` ``malformed_request``, ``invalid_request``.
    """
    body = await bodies.whole(request)
    length = request.headers.get(_JSON_LENGTH)
    if length is None:
        return await bodies.validated(body, InferenceRequest), b""
    if not (length.isascii() and length.isdecimal() and len(length) < 20) or int(length) > len(body):
        raise RequestError("malformed_request", f"{_JSON_LENGTH} is no length within the body.", param=_JSON_LENGTH)
    size = int(length)
    return await bodies.validated(body[:size], InferenceRequest), body[size:]


@dataclass(frozen=True, slots=True)
class Asked:
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
    def read(cls, body: InferenceRequest, behind: bytes) -> Asked:
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
        if unknown := sorted((wanted or frozenset()) - set(OUTPUTS)):
            message = f"outputs: there is no {unknown[0][:50]}; there are {', '.join(OUTPUTS)}."
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
    for name in ("candidates", "layers", "heads"):
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

    Raises: `RequestError` ``malformed_request``, ``invalid_request``.
    """
    start = count = 0
    while start < len(data):
        count += 1
        if count > _MOST_ELEMENTS:
            raise RequestError("invalid_request", f"{place}: more than {_MOST_ELEMENTS} elements.", param=place)
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


def outputs_of(answered: Answered, asked: Asked, info: ModelInfo) -> Iterator[OutputTensor]:
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
