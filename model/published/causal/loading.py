"""A causal vision-language model's folder -> a loaded `CausalVLM`."""

from __future__ import annotations

from collections.abc import Collection

from model.published.causal.model import CausalVLM
from model.published.causal.vision import ImageTokens
from model.published.checkpoint import LoadRequest, architecture_of, load_weights
from model.published.tokenizer import load_tokenizer


def load_causal(request: LoadRequest, images: type[ImageTokens], architectures: Collection[str]) -> CausalVLM:
    """The checkpoint of a folder whose config.json names one of ``architectures``; ``images`` is its family's.

    Raises ValueError for whatever of it is missing or makes no sense.
    """
    import transformers

    kind = getattr(transformers, architecture_of(request.folder, architectures))
    net = load_weights(kind, request)
    tokenizer = load_tokenizer(request.folder)
    image_id = net.config.image_token_id
    token = tokenizer.hub.convert_ids_to_tokens(image_id) if isinstance(image_id, int) else None
    if token is None:
        raise ValueError(f"{request.folder}: its image_token_id, {image_id!r}, is none of its tokenizer's tokens")
    return CausalVLM(net, tokenizer, images(net, request.folder, token), request)
