"""What families share whose language model writes behind a prompt: prompts, batches, candidates, and maps of all words.

Answers are written without maps. One more pass over prompt and answer together then makes the maps: the row of a token
that was written is that of the token before it, which chose it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from model import progress
from model.family import Span, TokenizedText
from model.grid_maps import find_words, make_tokens
from model.interface import (
    EncodedImage,
    Item,
    MapInfo,
    MapRequest,
    MapStep,
    ModelInfo,
    Output,
    Ranked,
    Task,
    TextOutput,
)
from model.published.family import PublishedFamily
from model.published.generation.batch import Batch, Row
from model.published.generation.config import WritingDefaults, read_writing_defaults
from model.published.generation.detokenizer import Detokenizer
from model.published.generation.sessions import FOLLOWED, Session, start
from model.published.map_passes import map_info, to_maps
from model.published.prompted.prompts import Asked, Forced, Found, Prompt
from model.published.prompted.streaming import PromptedWriting

_SCORED_AT_ONCE = 2048  # tokens of candidates and their prompts; bounds the memory of their logits


class Checkpoint(Protocol):
    """Which weights these are."""

    @property
    def id(self) -> str:
        """The name that the model is served by."""

    @property
    def revision(self) -> str:
        """Changes whenever weights or configuration do."""


class Prompted(PublishedFamily):
    """A family that writes. A derived class has the prompt, and what a pass over rows of one length is."""

    ends: tuple[int, ...]
    """The tokens that end an answer, the usual one first."""
    defaults: WritingDefaults
    """How it writes where a request does not say."""
    room: int
    """How many tokens of prompt and answer it has positions for."""
    answer_follows: str = " "
    """What stands between prompt and answer, where that makes a difference to the answer's tokens."""
    first_patch: int = 1
    """The key that is the first patch, where the geometry's cells do not say."""
    continues: bool = True
    """Whether a caption begins with the text that was sent; else that is an instruction."""

    def _describe(
        self, checkpoint: Checkpoint, preprocess: Any, *, layers: tuple[int, ...], max_new_tokens: int, around: int
    ) -> ModelInfo:
        """What the model can do, and `defaults`: an answer has ``max_new_tokens`` where neither a request nor the
        folder says otherwise; ``around`` are the tokens around a text. `room` is set. Raises ValueError for settings of
        the folder that make no sense."""
        self.defaults = read_writing_defaults(
            self.net.generation_config, max_new_tokens=max_new_tokens, room=self.room // 2, where=checkpoint.id
        )
        return ModelInfo(
            id=checkpoint.id,
            revision=checkpoint.revision,
            tasks=("answer", "caption"),
            map_kinds=("raw",),
            default_map_kind="raw",
            layers=layers,
            rows=preprocess.rows,
            columns=preprocess.columns,
            max_tokens=self.room - self.defaults.max_new_tokens - around,
            preprocess=preprocess,
            generation=FOLLOWED,
            generation_defaults=self.defaults.shown(),
            streams=True,
        )

    @abstractmethod
    def _prompt(self, task: Task, text: str) -> Prompt:
        """What is fed for a text."""

    @abstractmethod
    def _begin(self, prompts: Sequence[Prompt], images: Sequence[EncodedImage]) -> Session:
        """Read ``prompts`` of one length, one image each; equal images stand side by side."""

    @abstractmethod
    def _forced(
        self, prompts: Sequence[Prompt], images: Sequence[EncodedImage], made: Tensor, maps: MapRequest | None
    ) -> Forced:
        """Read prompts as `_begin` does, and the answers ``made`` ``[rows, m]`` behind them."""

    def _context(self, prompt: Prompt) -> Sequence[int]:
        """The ids before an answer, with which what it writes is compared (repetition, n-grams)."""
        return prompt.ids

    def _steps(self, maps: MapRequest) -> tuple[MapStep, ...]:
        """How maps are composed; empty where tokens look at patches themselves."""
        return ()

    def _gates(self, maps: MapRequest) -> tuple[float, ...]:
        """For each of the layers of a request, the share of what attention found that its gate lets through."""
        return ()

    @torch.no_grad()
    def _run(
        self, task: Task, items: Sequence[Item], texts: Sequence[Sequence[TokenizedText]], maps: MapRequest | None
    ) -> list[Output]:
        rows = [one for item in items for one in self.asked(task, item)]
        texts_of = iter(self.outputs(task, rows, self._answers(rows), maps))
        info = self.map_info(maps)
        return [Output(tuple(next(texts_of) for _ in item.texts), info) for item in items]

    def writing(self) -> PromptedWriting:
        """Items answered token by token; see `model.interface.Writing`."""
        return PromptedWriting(self)

    def asked(self, task: Task, item: Item) -> list[Asked]:
        """The item's texts with their prompts."""
        return [Asked(item, text, self._prompt(task, text)) for text in item.texts]

    def map_info(self, maps: MapRequest | None) -> MapInfo | None:
        """How maps are made; None where none are asked for."""
        return None if maps is None else map_info(maps, self._steps(maps), self._gates(maps))

    @torch.no_grad()
    def outputs(
        self, task: Task, rows: Sequence[Asked], found: Sequence[Found], maps: MapRequest | None
    ) -> list[TextOutput]:
        """What came of texts that are answered, with the maps that they all ask for."""
        outputs = [self._output(task, row, one) for row, one in zip(rows, found, strict=True)]
        if maps is not None:
            for members in self.groups(rows):
                made = [found[i].ids for i in members]
                ids = torch.tensor(_padded(made), device=self.device, dtype=torch.long)
                asked = [rows[i] for i in members]
                forced = self._forced([a.prompt for a in asked], [a.item.image for a in asked], ids, maps)
                for place, i in enumerate(members):
                    outputs[i] = self._with_maps(task, rows[i], found[i], outputs[i], forced, place)
        return outputs

    # -- answers --------------------------------------------------------------------------------------------------

    def _answers(self, rows: Sequence[Asked]) -> list[Found]:
        found: dict[int, Found] = {}
        for members in self.groups(rows):
            free = [i for i in members if rows[i].item.candidates is None]
            found.update((i, self.rank(rows[i])) for i in members if i not in free)
            if not free:
                continue
            written, batch = self.start([rows[i] for i in free])
            batch.finish()
            found.update((i, self.written(one)) for i, one in zip(free, written, strict=True))
        return [found[i] for i in range(len(rows))]

    @staticmethod
    def groups(rows: Sequence[Asked]) -> list[list[int]]:
        """Which rows have prompts of one length: they run together, without padding."""
        found: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            found.setdefault(len(row.prompt.ids), []).append(i)
        return list(found.values())

    @torch.no_grad()
    def start(self, rows: Sequence[Asked]) -> tuple[list[Row], Batch]:
        """Read prompts of one length, and write the first token of each; see `generation.sessions.start`."""
        return start(
            self._begin([row.prompt for row in rows], [row.item.image for row in rows]),
            [row.item.generation for row in rows],
            ends=self.ends,
            defaults=self.defaults,
            contexts=[self._context(row.prompt) for row in rows],
            most=self.room - len(rows[0].prompt.ids),
            decode=self._decode,
        )

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.hub.decode(list(ids), skip_special_tokens=True)
        return text

    def written(self, row: Row) -> Found:
        """What a finished row wrote."""
        made = row.detokenizer
        ranking = (Ranked(made.answer, math.exp(row.log_probability)),)
        finish = row.finish or "stop"
        return Found(ranking, tuple(made.ids), made.answer_spans, choices=tuple(row.choices), finish=finish)

    @torch.no_grad()
    def rank(self, row: Asked) -> Found:
        """The candidates of a row, by the probability that the model writes just that one."""
        candidates = row.item.candidates or ()
        made = [self.answer_ids(candidate) for candidate in candidates]
        longest = max(map(len, made)) + len(row.prompt.ids)
        scores: list[Tensor] = []
        at_once = max(1, _SCORED_AT_ONCE // longest)
        for first in range(0, len(made), at_once):
            progress.step()
            part = made[first : first + at_once]
            ids = torch.tensor(_padded(part), device=self.device, dtype=torch.long)
            forced = self._forced([row.prompt] * len(part), [row.item.image] * len(part), ids, None)
            scores.append(_log_probabilities(forced.logits, part, self.ends[0]))
        best = torch.cat(scores).softmax(0).sort(descending=True, stable=True)
        order, shares = best.indices.tolist(), best.values.tolist()
        ranking = tuple(Ranked(candidates[i], share) for i, share in zip(order, shares, strict=True))
        ranking = ranking[: row.item.top_k]
        rest = max(0.0, 1.0 - sum(one.score for one in ranking))
        best_ids = made[order[0]]
        return Found(ranking, tuple(best_ids), self._spans(best_ids), rest, candidates=True)

    def _spans(self, ids: Sequence[int]) -> list[Span | None]:
        """Where each token of an answer stands in its text."""
        detokenizer = Detokenizer(self._decode)
        for token in ids:
            detokenizer.add(token)
        detokenizer.end()
        return detokenizer.answer_spans

    def answer_ids(self, answer: str) -> list[int]:
        """The tokens of an answer as they follow a prompt."""
        encode = self.tokenizer.hub._tokenizer.encode
        if self.answer_follows:
            before = encode("x", add_special_tokens=False).ids
            whole = encode(f"x{self.answer_follows}{answer}", add_special_tokens=False).ids
            if whole[: len(before)] == before:
                return list(whole[len(before) :])
        return list(encode(answer, add_special_tokens=False).ids)

    # -- outputs --------------------------------------------------------------------------------------------------

    def _output(self, task: Task, row: Asked, found: Found) -> TextOutput:
        ranking = found.ranking
        if task == "caption":
            ranking = tuple(Ranked(self._caption(row, found)[0], one.score) for one in ranking)
        return TextOutput(
            ranking,
            "candidates" if found.candidates else "sequence",
            found.rest,
            token_count=len(row.prompt.ids),
            answer_token_count=len(found.ids),
            choices=found.choices,
            finish=found.finish,
        )

    def _caption(self, row: Asked, found: Found) -> tuple[str, int]:
        """The caption, which begins with the text as it was sent, and where its written part starts."""
        before, made = row.text.rstrip() if self.continues else "", found.ranking[0].answer
        if not before:
            return made, 0
        glue = "" if made[:1] in ("", *",.;:!?") else " "
        return f"{before}{glue}{made}", len(before + glue)

    def _with_maps(
        self, task: Task, row: Asked, found: Found, output: TextOutput, forced: Forced, place: int
    ) -> TextOutput:
        """The output with the maps of row ``place`` of a pass."""
        if forced.prompt_maps is None or forced.answer_maps is None:
            return output
        prompt, answered = forced.prompt_maps[place], forced.answer_maps[place, : max(1, len(found.ids))]
        geometry, size = row.item.image.geometry, len(row.prompt.ids)
        placed = to_maps(
            torch.cat([answered.mean(0, keepdim=True), prompt, answered]), geometry, self.first_patch, whole=True
        )
        answer_map, asked, said = placed[0], placed[1 : 1 + size], placed[1 + size : 1 + size + len(found.ids)]
        answer = found.ranking[0].answer
        pairs = zip(found.spans, self.tokenizer.texts(found.ids), strict=True)
        names = [answer[span[0] : span[1]] if span else name for span, name in pairs]
        if task == "caption":
            text, start = self._caption(row, found)
            given = [i for i, span in enumerate(row.prompt.spans) if span is not None and self.continues]
            spans: list[Span | None] = [row.prompt.spans[i] for i in given]
            spans += [None if span is None else (span[0] + start, span[1] + start) for span in found.spans]
            return replace(
                output,
                answer_map=answer_map,
                answer_tokens=make_tokens(
                    [*(row.prompt.texts[i] for i in given), *names], spans, [*(asked[i] for i in given), *said]
                ),
                answer_words=find_words(text, spans),
            )
        return replace(
            output,
            tokens=make_tokens(row.prompt.texts, row.prompt.spans, asked),
            words=find_words(row.text, row.prompt.spans),
            answer_map=answer_map,
            answer_tokens=make_tokens(names, found.spans, said),
            answer_words=find_words(answer, found.spans),
        )


def side_by_side(images: Sequence[EncodedImage]) -> list[tuple[Any, int]]:
    """Each image and how many rows in a row ask it."""
    runs: list[tuple[Any, int]] = []
    for image in images:
        if runs and runs[-1][0] is image:
            runs[-1] = (image, runs[-1][1] + 1)
        else:
            runs.append((image, 1))
    return runs


def _padded(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Rows of one length. What stands behind an answer harms nothing: attention is causal."""
    longest = max(map(len, rows))
    return [[*row, *[0] * (longest - len(row))] for row in rows]


def _log_probabilities(logits: Tensor, made: Sequence[Sequence[int]], end: int) -> Tensor:
    """``[rows]``: of each answer and its end, from logits ``[rows, 1 + m, vocabulary]``."""
    found = logits.float().log_softmax(-1)
    each = [
        found[i, torch.arange(len(ids) + 1), torch.tensor([*ids, end])].sum()  # a few numbers a row
        for i, ids in enumerate(made)
    ]
    return torch.stack(each)
