"""A checkpoint's chat template: the text that it makes of images and a question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from model.published.tokenizer import Tokenizer

_PLACE = "{}"


def chat_template(folder: Path, tokenizer: Tokenizer) -> str | None:
    """The prompt that the folder's own template makes of one image and a question, ``{}`` in the question's place; None
    where it has no template. Raises ValueError for one that does not work."""
    template = read_template(folder, tokenizer)
    if not template:
        return None
    found = render(folder, tokenizer, template, 1, _PLACE)
    if found.count(_PLACE) != 1:
        raise ValueError(f"the chat template of {folder} does not show the question once")
    return found


def render(folder: Path, tokenizer: Tokenizer, template: str, images: int, text: str) -> str:
    """What ``template`` makes of a user's message, so many ``images`` and then the ``text``, with the call for an
    answer. Raises ValueError, which names the ``folder``, for a template that does not work."""
    content: list[dict[str, str]] = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]
    options: dict[str, Any] = {"chat_template": template, "add_generation_prompt": True, "tokenize": False}
    try:
        return str(tokenizer.hub.apply_chat_template([{"role": "user", "content": content}], **options))
    except Exception as error:  # whatever Jinja, or the template itself, raises
        raise ValueError(f"the chat template of {folder} does not work: {error}") from error


def read_template(folder: Path, tokenizer: Tokenizer) -> str | None:
    """The folder's chat template, from whichever file has it; None where none does."""
    plain = folder / "chat_template.jinja"
    if plain.is_file():
        return plain.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json"):
        path = folder / name
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
            if isinstance(found, str):
                return found
    own = tokenizer.hub.chat_template
    if isinstance(own, dict):
        own = own.get("default")
    return own if isinstance(own, str) else None
