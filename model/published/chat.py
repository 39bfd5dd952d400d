"""A checkpoint's chat template, as what stands before and behind a question about an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model.published.causal.prompts import read_template
from model.published.tokenizer import Tokenizer

_PLACE = "{}"


def chat_template(folder: Path, tokenizer: Tokenizer) -> str | None:
    """The prompt that the folder's own template makes of one image and a question, ``{}`` in the question's place; None
    where it has no template. Raises ValueError for one that does not work."""
    template = read_template(folder, tokenizer)
    if not template:
        return None
    content: list[dict[str, Any]] = [{"type": "image"}, {"type": "text", "text": _PLACE}]
    messages = [{"role": "user", "content": content}]
    options = {"add_generation_prompt": True, "tokenize": False}
    try:
        found = str(tokenizer.hub.apply_chat_template(messages, chat_template=template, **options))
    except Exception as error:  # whatever Jinja, or the template itself, raises
        raise ValueError(f"the chat template of {folder} does not work: {error}") from error
    if found.count(_PLACE) != 1:
        raise ValueError(f"the chat template of {folder} does not show the question once")
    return found
