"""The prompt of a causal vision-language model: its folder's chat template around an image, or several, and a question.

All up to the last token of the last image is the *prefix*: it is the same for every question about the image, so it is
read once. What follows (the rest of the template, the question, the call for an answer) is the *tail*. Cut there, both
give the very tokens of the whole prompt: the image's token is a special one, at which tokenizers always cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.family import Span, TokenizedText
from model.published.chat import read_template, render
from model.published.tokenizer import Tokenizer

_MARK = "\ue000question\ue000"


class ChatPrompt:
    """Prompts of one checkpoint. ``placeholder`` is what its template writes for an image; ``image_token`` the token
    that stands for one feature of it."""

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        *,
        placeholder: str,
        image_token: str,
        after: str,
        template: str | None,
    ) -> None:
        """``after``: what an image's text has behind its last token; ``template``: that of folders without one.
        Raises ValueError for a template that does not put one image before the question."""
        self.tokenizer, self.placeholder, self.image_token = tokenizer, placeholder, image_token
        self._backend = tokenizer.hub._tokenizer
        self.image_id = int(tokenizer.hub.convert_tokens_to_ids(image_token))
        self._folder, self._template = folder, read_template(folder, tokenizer) or template
        before, mark, self.after = self._render(1).partition(_MARK)
        if not mark or before.count(placeholder) != 1:
            raise ValueError(f"{folder}: its chat template does not put one image ({placeholder}) before the question")
        self._before = {1: before.split(placeholder)}  # for a number of images, the text around them
        self._lead = before.replace(placeholder, image_token + after).rpartition(image_token)[2]
        self._special = [token.content for token in tokenizer.hub.added_tokens_decoder.values() if token.special]
        self._special.append(image_token)

    def _render(self, images: int) -> str:
        folder = self._folder
        if self._template is None:
            raise ValueError(f"{folder} has no chat template, and its family has none that all its models share")
        return render(folder, self.tokenizer, self._template, images, _MARK)

    def around(self, images: int) -> list[str]:
        """The text before, between and behind so many images, up to the question. Raises ValueError where the template
        does not put them all before the question, and what is behind them as behind one."""
        if images not in self._before:
            before, mark, after = self._render(images).partition(_MARK)
            parts = before.split(self.placeholder)
            if not mark or len(parts) != images + 1 or (parts[-1], after) != (self._before[1][-1], self.after):
                raise ValueError(f"{self._folder}: its chat template does not put {images} images before the question")
            self._before[images] = parts
        return self._before[images]

    @property
    def takes_several(self) -> bool:
        """Whether the template has a place for more than one image."""
        try:
            return bool(self.around(2))
        except ValueError:
            return False

    def prefix(self, expansions: Sequence[str]) -> list[int]:
        """The ids of all up to the last image's last token, where ``expansions`` stand for the images."""
        first, *rest = self.around(len(expansions))
        text = first + "".join(one + part for one, part in zip(expansions, rest, strict=True))
        bos = self.tokenizer.hub.bos_token
        ids: list[int] = self._encode(text, start=not (bos and bos in "".join([first, *rest]))).ids
        return ids[: len(ids) - ids[::-1].index(self.image_id)]

    def tail(self, question: str, answer: str = "") -> TokenizedText:
        """The tokens behind the image, with spans in ``question``. ``answer``: what the model has already said."""
        before = self.image_token + self._lead
        pieces = [(before, True), (question, False), (self.after + answer, True)]
        if not any(special in question for special in self._special):
            pieces = [("".join(text for text, _ in pieces), True)]  # tokens may join at the question's edges
        ids: list[int] = []
        texts: list[str] = []
        spans: list[Span | None] = []
        start, end, offset = len(before), len(before) + len(question), 0
        whole = before + question + self.after + answer
        for text, special in pieces:
            encoded = self._encode(text, special=special)
            for token_id, token, (first, last) in zip(encoded.ids, encoded.tokens, encoded.offsets, strict=True):
                first, last = first + offset, last + offset
                inside = max(first, start), min(last, end)
                ids.append(token_id)
                spans.append((inside[0] - start, inside[1] - start) if inside[0] < inside[1] else None)
                texts.append(whole[first:last] or token)
            offset += len(text)
        cut = ids.index(self.image_id) + 1
        unknown = self.tokenizer.hub.unk_token_id
        asked = [i for i, span in zip(ids, spans, strict=True) if span is not None]
        share = sum(i == unknown for i in asked) / len(asked) if asked and unknown is not None else 0.0
        return TokenizedText(ids[cut:], texts[cut:], spans[cut:], share)

    def _encode(self, text: str, *, start: bool = False, special: bool = True) -> Any:
        """``special``: whether special tokens in ``text`` are such; what a user types never is."""
        self._backend.encode_special_tokens = not special
        try:
            return self._backend.encode(text, add_special_tokens=start)
        finally:
            self._backend.encode_special_tokens = True
