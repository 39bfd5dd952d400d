"""ViLT (Kim et al. 2021): question and image patches in one stream of self-attention, answers from a fixed list."""

from __future__ import annotations

from model.published.checkpoint import LoadRequest, architecture_of, load_weights
from model.published.preprocess import processor_config, read_normalization
from model.published.tokenizer import load_tokenizer
from model.published.vilt.answer import ViltAnswer
from model.published.vilt.preprocess import read_resize

MODEL_TYPE = "vilt"
ARCHITECTURES = ("ViltForQuestionAnswering",)


def load(request: LoadRequest) -> ViltAnswer:
    """Load a `ViltForQuestionAnswering`. Raises ValueError or OSError for a folder that holds no such model."""
    from transformers import ViltForQuestionAnswering

    architecture_of(request.folder, ARCHITECTURES)
    net = load_weights(ViltForQuestionAnswering, request)
    settings = processor_config(request.folder)
    return ViltAnswer(
        net,
        load_tokenizer(request.folder),
        read_resize(request.folder, settings, net.config.patch_size),
        read_normalization(request.folder, settings),
        request,
    )
