"""Answers as NumPy's own file of arrays, for ``Accept: application/x-npz``: maps without JSON between."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from crosslook.types import AnswerResponse
from model.interface import Map, Output, Token

MEDIA_TYPE = "application/x-npz"


def wanted(request: Request) -> bool:
    """Whether the client takes this before JSON: it names it in ``Accept``."""
    kinds = request.headers.get("accept", "").split(",")
    return any(kind.partition(";")[0].strip().lower() == MEDIA_TYPE for kind in kinds)


def without_maps(output: Output) -> Output:
    """What the JSON of the file is made of: everything but the maps' values."""

    def plain(tokens: Sequence[Token]) -> tuple[Token, ...]:
        return tuple(replace(token, map=None) for token in tokens)

    texts = (
        replace(text, answer_map=None, tokens=plain(text.tokens), answer_tokens=plain(text.answer_tokens))
        for text in output.texts
    )
    return replace(output, texts=tuple(texts))


def answer_file(response: AnswerResponse, output: Output) -> bytes:
    """The file: ``result``, the JSON without maps (uint8, UTF-8), and for the i-th question its maps as they were made.

    ``answer_map_i`` float32 ``[rows, columns]``, ``question_map_i`` float32 ``[tokens, rows, columns]`` and, where the
    model writes its answers, ``answer_token_map_i`` alike; ``..elsewhere_i`` (each map's sum outside of the grid)
    beside each. A token without a map has zeros. ``numpy.load`` reads it without pickle.
    """
    arrays: dict[str, NDArray[np.generic]] = {"result": np.frombuffer(response.model_dump_json().encode(), np.uint8)}
    for index, text in enumerate(output.texts):
        if text.answer_map is not None:
            arrays[f"answer_map_{index}"] = text.answer_map.values
            arrays[f"answer_elsewhere_{index}"] = np.array(text.answer_map.elsewhere, np.float32)
        for name, tokens in (("question", text.tokens), ("answer_token", text.answer_tokens)):
            maps = [token.map for token in tokens]
            given = next((each for each in maps if each is not None), None)
            if given is not None:
                arrays[f"{name}_map_{index}"] = np.stack([_values(each, given) for each in maps])
                elsewhere = [0.0 if each is None else each.elsewhere for each in maps]
                arrays[f"{name}_elsewhere_{index}"] = np.array(elsewhere, np.float32)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _values(found: Map | None, like: Map) -> NDArray[np.float32]:
    return np.zeros_like(like.values) if found is None else found.values
