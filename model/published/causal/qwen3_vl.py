"""Qwen3-VL (Qwen team 2025): Qwen2.5-VL's images, whose features of several depths are added to the first text layers
(DeepStack)."""

from __future__ import annotations

from model.published.causal.loading import load_causal
from model.published.causal.qwen2_5_vl import QwenImages
from model.published.checkpoint import LoadRequest
from model.published.family import PublishedFamily

MODEL_TYPE = "qwen3_vl"
ARCHITECTURES = ("Qwen3VLForConditionalGeneration",)


def load(request: LoadRequest) -> PublishedFamily:
    """Load a folder of this family. Raises ValueError or OSError for one that is not whole."""
    return load_causal(request, QwenImages, ARCHITECTURES)
