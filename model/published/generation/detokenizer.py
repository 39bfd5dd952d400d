"""Generated ids as text, while more of them come: whole letters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from model.family import Span


class Detokenizer:
    """The text that comes of generated ids, as far as it is certain.

    A token may be a part of a letter, and what a token looks like depends on the one before it, so each is decoded
    together with its predecessor. ``spans`` are in ``text``; tokens of one letter share its span, and those that leave
    no trace have None.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode, self._stop = decode, stop
        self.ids: list[int] = []
        self.spans: list[Span | None] = []
        self.text = ""
        self.stopped = False
        self._window, self._known, self._sent = 0, 0, 0
        self._waiting: list[int] = []  # tokens whose letter is not whole yet

    def add(self, token: int) -> str:
        """Take one more token; what it added to the text. `stopped` is set where a stop string has come: the text ends
        before it then."""
        self.ids.append(token)
        self.spans.append(None)
        self._waiting.append(len(self.ids) - 1)
        before = self._decode(self.ids[self._window : self._known])
        whole = self._decode(self.ids[self._window :])
        if len(whole) <= len(before) or whole.endswith("\ufffd"):
            return ""
        self._window, self._known = self._known, len(self.ids)
        return self._append(whole[len(before) :])

    def end(self) -> None:
        """No token follows: a letter that is not whole stays so."""
        before = self._decode(self.ids[self._window : self._known])
        rest = self._decode(self.ids[self._window :])[len(before) :]
        if rest and not self.stopped:
            self._append(rest)

    def _append(self, new: str) -> str:
        start = len(self.text)
        self.text += new
        for index in self._waiting:
            self.spans[index] = (start, len(self.text))
        self._waiting.clear()
        for stop in self._stop:
            found = self.text.find(stop, max(0, start - len(stop)))
            if found >= 0 and (not self.stopped or found < len(self.text)):
                self.text, self.stopped = self.text[:found], True
        return new

    def release(self, *, over: bool) -> str:
        """What can be shown of the text and was not yet. Until it is ``over``, spaces at the end and what may be the
        beginning of a stop string wait. All that was released is `answer` in the end."""
        ready = len(self.text)
        if not over:
            for stop in self._stop:
                for length in range(min(len(stop) - 1, len(self.text)), 0, -1):
                    if self.text.endswith(stop[:length]):
                        ready = min(ready, len(self.text) - length)
                        break
        shown = self.text[:ready].strip()
        new, self._sent = shown[self._sent :], max(self._sent, len(shown))
        return new

    @property
    def answer(self) -> str:
        """The text without the space around it."""
        return self.text.strip()

    @property
    def answer_spans(self) -> list[Span | None]:
        """Where each token stands in `answer`."""
        shift, length = len(self.text) - len(self.text.lstrip()), len(self.answer)
        spans: list[Span | None] = []
        for span in self.spans:
            start, end = (0, 0) if span is None else (max(0, span[0] - shift), min(length, span[1] - shift))
            spans.append((start, end) if start < end else None)
        return spans
