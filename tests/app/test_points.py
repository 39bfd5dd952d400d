"""Where maps point, and maps as NumPy's files."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from app.points import half_box
from tests.app.test_native import failed

session_loop = pytest.mark.asyncio(loop_scope="session")
GRIDS = arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.integers(0, 9).map(float))


def slow_half_box(values: Any) -> tuple[int, float]:
    """Area and mass of the best box, by trying all."""
    rows, columns = values.shape
    found = (
        ((bottom - top) * (right - left), -float(values[top:bottom, left:right].sum()))
        for top in range(rows)
        for bottom in range(top + 1, rows + 1)
        for left in range(columns)
        for right in range(left + 1, columns + 1)
        if values[top:bottom, left:right].sum() >= values.sum() / 2
    )
    return min(found)


@given(GRIDS)
def test_the_smallest_box_with_half(values: Any) -> None:
    """As small as any, and of those as small with as much as any."""
    if not values.any():
        return
    top, left, bottom, right = half_box(values)
    inside = float(values[top:bottom, left:right].sum())
    assert ((bottom - top) * (right - left), -inside) == slow_half_box(values)


@session_loop
@pytest.mark.parametrize("maps", ["float", "u8"])
@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        ("/v1/answer", {"questions": ["is it red?"]}, ("answer_map", "question_tokens")),
        ("/v1/match", {"texts": ["red", "blue"]}, ("text_map", "text_tokens")),
        ("/v1/caption", {"prompts": [""]}, ("caption_map", "caption_tokens")),
    ],
)
async def test_every_map_points(
    colours: httpx.AsyncClient, half_red: str, path: str, fields: Any, named: Any, maps: str
) -> None:
    """In pixels of the image, whose left half is red; and only where it was asked for."""
    body = {"image": half_red, "maps": maps, **fields}
    plain = (await colours.post(path, json=body)).json()
    assert "point" not in json.dumps(plain)
    pointed = (await colours.post(path, json={**body, "points": True})).json()
    result = pointed["results"][0]
    maps_of = [result[named[0]], *(token["map"] for token in result[named[1]])]
    points = [found.pop("point") for found in maps_of if found is not None]
    assert points
    assert json.dumps(pointed["results"][0]) == json.dumps(plain["results"][0])
    for point in points:
        assert 0 < point["x"] < 60
        assert 0 < point["y"] < 40
        assert 0 <= point["half"]["left"] < point["half"]["right"] <= 60
    red = [
        p for p, token in zip(points[-len(result[named[1]]) :], result[named[1]], strict=True) if token["text"] == "red"
    ]
    for point in red:
        assert point["x"] < 30.0
        assert point["half"]["right"] <= 30.0


@session_loop
async def test_answers_as_arrays(colours: httpx.AsyncClient, half_red: str) -> None:
    """The same as the JSON, with its maps as they were made."""
    body = {"image": half_red, "questions": ["is it red?", "blue or green?"]}
    plain = (await colours.post("/v1/answer", json=body)).json()
    response = await colours.post("/v1/answer", json=body, headers={"Accept": "application/x-npz, application/json"})
    assert response.headers["content-type"] == "application/x-npz"
    arrays_ = np.load(io.BytesIO(response.content))
    result = json.loads(arrays_["result"].tobytes())
    for index, (mine, theirs) in enumerate(zip(result["results"], plain["results"], strict=True)):
        assert np.allclose(arrays_[f"answer_map_{index}"], theirs["answer_map"]["values"], rtol=1e-3)
        assert np.isclose(arrays_[f"answer_elsewhere_{index}"], theirs["answer_map"]["elsewhere"], rtol=1e-3)
        tokens = theirs["question_tokens"]
        assert np.allclose(arrays_[f"question_map_{index}"], [t["map"]["values"] for t in tokens], rtol=1e-3)
        assert arrays_[f"question_elsewhere_{index}"].shape == (len(tokens),)
        for token in tokens:
            token["map"] = None
        theirs["answer_map"] = None
        assert mine == theirs
    bare = await colours.post("/v1/answer", json={**body, "maps": "none"}, headers={"Accept": "application/x-npz"})
    assert np.load(io.BytesIO(bare.content)).files == ["result"]


@session_loop
async def test_an_error_stays_json(colours: httpx.AsyncClient, half_red: str) -> None:
    headers = {"Accept": "application/x-npz"}
    failed(
        await colours.post("/v1/answer", json={"image": half_red, "questions": [""]}, headers=headers),
        "question_empty",
        "questions[0]",
    )
