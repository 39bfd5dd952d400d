"""Llama 3.2 Vision (Meta 2024), "Mllama" in transformers: Llama with layers of cross-attention to an image's tiles."""

from __future__ import annotations

from model.published.chat import chat_template
from model.published.checkpoint import LoadRequest, architecture_of, load_weights
from model.published.mllama.answer import Mllama
from model.published.mllama.tiles import read_tiles
from model.published.preprocess import processor_config, read_normalization
from model.published.tokenizer import load_tokenizer

MODEL_TYPE = "mllama"
ARCHITECTURES = ("MllamaForConditionalGeneration",)


def load(request: LoadRequest) -> Mllama:
    """Load a `MllamaForConditionalGeneration`. Raises ValueError or OSError for a folder that holds no such model."""
    from transformers import MllamaForConditionalGeneration

    architecture_of(request.folder, ARCHITECTURES)
    settings = processor_config(request.folder)
    net = load_weights(MllamaForConditionalGeneration, request)
    tokenizer = load_tokenizer(request.folder)
    return Mllama(
        net,
        tokenizer,
        read_tiles(request.folder, settings, net.config.vision_config),
        read_normalization(request.folder, settings),
        chat_template(request.folder, tokenizer),
        request,
    )
