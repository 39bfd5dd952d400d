"""What every model family implements, made so that an image is encoded once and asked many times.

The three steps, in the order of the data flow:

1. ``info.preprocess(image) -> Pixels`` (`images`): cheap, no torch, runs in any process (the service's parent decodes
   and preprocesses; pixels travel to the worker).
2. ``encode(list[Pixels]) -> list[EncodedImage]``: the expensive vision pass. The engine sees no more of its
   result than ``nbytes``, ``geometry`` and ``batch_key``; the cache keeps it.
3. ``run(task, list[Item]) -> list[Output | ItemError]``: questions (`items`) against encoded images, batched, and what
   comes of them (`outputs`).

`model` has the protocol of these steps. Nothing here imports torch, or anything of the project outside of this package.
"""

from model.interface.images import EncodedImage, Geometry, Pixels, Preprocess, Region, among, together
from model.interface.items import Generation, Item, MapKind, MapRequest, Task
from model.interface.model import Model, ModelInfo, QuestionForm, QuestionKind, ReliabilityBand, Writing, WritingModel
from model.interface.outputs import (
    ItemError,
    ItemErrorCode,
    LaterTexts,
    Map,
    MapInfo,
    MapStep,
    Output,
    Progress,
    Ranked,
    ScoreOver,
    TextOutput,
    Token,
    TokenChoice,
    Word,
    Written,
)

__all__ = [
    "EncodedImage",
    "Generation",
    "Geometry",
    "Item",
    "ItemError",
    "ItemErrorCode",
    "LaterTexts",
    "Map",
    "MapInfo",
    "MapKind",
    "MapRequest",
    "MapStep",
    "Model",
    "ModelInfo",
    "Output",
    "Pixels",
    "Preprocess",
    "Progress",
    "QuestionForm",
    "QuestionKind",
    "Ranked",
    "Region",
    "ReliabilityBand",
    "ScoreOver",
    "Task",
    "TextOutput",
    "Token",
    "TokenChoice",
    "Word",
    "Writing",
    "WritingModel",
    "Written",
    "among",
    "together",
]
