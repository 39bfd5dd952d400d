"""Idefics (Laurençon et al. 2023), the open Flamingo: Llama with gated cross-attention to latents of an image."""

from __future__ import annotations

from model.published.checkpoint import LoadRequest, architecture_of, load_checkpoint
from model.published.idefics.answer import Idefics

MODEL_TYPE = "idefics"
ARCHITECTURES = ("IdeficsForVisionText2Text",)


def load(request: LoadRequest) -> Idefics:
    """Load an `IdeficsForVisionText2Text`. Raises ValueError or OSError for a folder that holds no such model."""
    from transformers import IdeficsForVisionText2Text

    architecture_of(request.folder, ARCHITECTURES)
    return Idefics(load_checkpoint(IdeficsForVisionText2Text, request))
