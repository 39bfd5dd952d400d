"""The wire types: what requests and responses of the native routes hold, for the server and for every client.

Conventions, the same everywhere:

* Positions on the image are floats in pixels of the original image after its EXIF rotation.
* Spans are half-open ``(start, end)`` in Unicode code points of the text exactly as it was sent.
* A map's ``values`` (or ``data``) cover ``attention.region`` cut evenly into ``attention.grid``; row 0 is the top.
* Keys never vanish: what does not apply is ``null`` or an empty list.
"""

from __future__ import annotations

from crosslook.types.base import MapChoice, MapEncoding, MapKind, QuestionKind, ScoreOver, WireModel
from crosslook.types.errors import ErrorBody, ErrorInfo
from crosslook.types.maps import Attention, FloatMap, FurtherImage, Grid, Map, Point, Region, Token, U8Map, Word
from crosslook.types.models import ModelCard, ModelLimits, ModelList, ReliabilityBand
from crosslook.types.requests import (
    AnswerOptions,
    AnswerRequest,
    CaptionRequest,
    GenerationOptions,
    ImageInput,
    ImageUploadRequest,
    MapOptions,
    MatchRequest,
    OverlayRequest,
)
from crosslook.types.results import (
    AnswerResponse,
    AnswerResult,
    CaptionResponse,
    CaptionResult,
    ImageRef,
    ImageUploadResponse,
    MatchResponse,
    MatchResult,
    ModelRef,
    RankedAnswer,
    Reliability,
)

__all__ = [
    "AnswerOptions",
    "AnswerRequest",
    "AnswerResponse",
    "AnswerResult",
    "Attention",
    "CaptionRequest",
    "CaptionResponse",
    "CaptionResult",
    "ErrorBody",
    "ErrorInfo",
    "FloatMap",
    "FurtherImage",
    "GenerationOptions",
    "Grid",
    "ImageInput",
    "ImageRef",
    "ImageUploadRequest",
    "ImageUploadResponse",
    "Map",
    "MapChoice",
    "MapEncoding",
    "MapKind",
    "MapOptions",
    "MatchRequest",
    "MatchResponse",
    "MatchResult",
    "ModelCard",
    "ModelLimits",
    "ModelList",
    "ModelRef",
    "OverlayRequest",
    "Point",
    "QuestionKind",
    "RankedAnswer",
    "Region",
    "Reliability",
    "ReliabilityBand",
    "ScoreOver",
    "Token",
    "U8Map",
    "WireModel",
    "Word",
]
