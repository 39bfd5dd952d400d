"""SmolVLM (Marafioti et al. 2025): Idefics 3's images with a small text model."""

from __future__ import annotations

from model.published.causal.idefics3 import Idefics3Images
from model.published.causal.loading import load_causal
from model.published.checkpoint import LoadRequest
from model.published.family import PublishedFamily

MODEL_TYPE = "smolvlm"
ARCHITECTURES = ("SmolVLMForConditionalGeneration",)


def load(request: LoadRequest) -> PublishedFamily:
    """Load a folder of this family. Raises ValueError or OSError for one that is not whole."""
    return load_causal(request, Idefics3Images, ARCHITECTURES)
