"""BLIP-2 (Li et al. 2023): answers and captions by a language model that reads what 32 queries saw of the image."""

from __future__ import annotations

from model.published.blip2.base import Blip2
from model.published.checkpoint import LoadRequest, architecture_of, load_checkpoint

MODEL_TYPE = "blip-2"
ARCHITECTURES = ("Blip2ForConditionalGeneration",)


def load(request: LoadRequest) -> Blip2:
    """Load a `Blip2ForConditionalGeneration`. Raises ValueError or OSError for a folder that holds no such model."""
    from transformers import Blip2ForConditionalGeneration

    architecture_of(request.folder, ARCHITECTURES)
    return Blip2(load_checkpoint(Blip2ForConditionalGeneration, request))
