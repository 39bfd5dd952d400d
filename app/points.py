"""The place that each map points at, for clients that draw no maps: ``points=true``.

A point is the middle of the map's strongest cell; the box is the smallest rectangle of whole cells that holds half of
the map. Neither is a detection: how often the strongest cell lies on the thing that a word names is in docs/maps.md.
"""

from __future__ import annotations

import base64
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from crosslook import types as wire

R = TypeVar("R", wire.AnswerResponse, wire.MatchResponse, wire.CaptionResponse)

_MAPS = ("answer_map", "text_map", "caption_map")
_TOKENS = ("question_tokens", "answer_tokens", "text_tokens", "caption_tokens")


def with_points(response: R) -> R:
    """The response with a ``point`` in each of its maps; the same one where it has no maps."""
    attention = response.attention
    if attention is None:
        return response

    def pointed(found: wire.Map | None) -> wire.Map | None:
        return None if found is None else found.model_copy(update={"point": point(found, attention)})

    results = []
    for result in response.results:
        changed: dict[str, Any] = {name: pointed(getattr(result, name)) for name in _MAPS if hasattr(result, name)}
        for name in _TOKENS:
            tokens = getattr(result, name, ())
            if tokens:
                changed[name] = [token.model_copy(update={"map": pointed(token.map)}) for token in tokens]
        results.append(result.model_copy(update=changed))
    return response.model_copy(update={"results": results})


def point(found: wire.Map, attention: wire.Attention) -> wire.Point | None:
    """Where a map points, in pixels of the original image; None for a map without any mass in the grid."""
    rows, columns, region = attention.grid.rows, attention.grid.columns, attention.region
    values = np.maximum(_values(found, rows, columns), 0.0)
    if not values.any():
        return None
    height, width = (region.bottom - region.top) / rows, (region.right - region.left) / columns
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    top, left, bottom, right = half_box(values)
    return wire.Point(
        x=round(region.left + (float(column) + 0.5) * width, 2),
        y=round(region.top + (float(row) + 0.5) * height, 2),
        half=wire.Region(
            left=round(region.left + left * width, 2),
            top=round(region.top + top * height, 2),
            right=round(region.left + right * width, 2),
            bottom=round(region.top + bottom * height, 2),
        ),
    )


def _values(found: wire.Map, rows: int, columns: int) -> NDArray[np.float64]:
    if isinstance(found, wire.FloatMap):
        return np.array(found.values, dtype=np.float64)
    return np.frombuffer(base64.b64decode(found.data), np.uint8).reshape(rows, columns).astype(np.float64)


def half_box(values: NDArray[np.float64]) -> tuple[int, int, int, int]:
    """``values`` ``[rows, columns]``, none negative and not all 0 -> top, left, bottom, right in cells, half-open: the
    smallest rectangle with at least half of the sum; of several as small, that with most in it."""
    rows, columns = values.shape
    half = 0.5 * values.sum() * (1.0 - 1e-9)  # rounding must not ask for more than half
    first, last = np.triu_indices(rows)  # every strip of whole rows
    below = np.concatenate([np.zeros((1, columns)), values.cumsum(0)])
    strips = below[last + 1] - below[first]
    across = np.concatenate([np.zeros((len(first), 1)), strips.cumsum(1)], axis=1)
    heights = last - first + 1
    best, found = (rows * columns + 1, 0.0), (0, 0, rows, columns)
    for width in range(1, columns + 1):
        mass = across[:, width:] - across[:, :-width]
        enough = mass.max(1) >= half
        if not enough.any():
            continue
        smallest = heights[enough].min()
        area = int(smallest) * width
        if area > best[0]:
            continue
        mass = np.where((enough & (heights == smallest))[:, None], mass, -1.0)
        strip, left = np.unravel_index(int(mass.argmax()), mass.shape)
        ranked = (area, -float(mass[strip, left]))
        if ranked < best:
            best = ranked
            found = (int(first[strip]), int(left), int(last[strip]) + 1, int(left) + width)
    return cast("tuple[int, int, int, int]", found)
