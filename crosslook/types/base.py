"""What all wire types share."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

MapKind = Literal["raw", "gradient", "rollout", "similarity"]
"""``raw``: attention of the very pass that made the answer. ``gradient``: what counted for the answer, where a stronger
look would have raised it. ``rollout``: attention, followed through that within the text. ``similarity``: no attention
at all, a cosine between a token and each patch."""

MapEncoding = Literal["float", "u8"]
MapChoice = Literal["float", "u8", "none"]
ScoreOver = Literal["vocabulary", "candidates", "sequence", "text"]
QuestionKind = Literal["yes/no", "count", "colour", "reading", "other"]


def is_none(value: object) -> bool:
    """For fields that are left away where they are None (``exclude_if``)."""
    return value is None


class WireModel(BaseModel):
    """Base of all wire types. Unknown keys of a *response* are ignored, so that an old client reads a newer server."""

    model_config = ConfigDict(extra="ignore", frozen=True)
