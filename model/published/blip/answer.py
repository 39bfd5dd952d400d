"""BLIP for visual question answering: the question asks the image, a decoder reads the answer from the question.

The answer's tokens never look at the image themselves, so their raw and rollout maps are composed: what an answer
token takes from each question token, times where that one looked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from model.attribution import compose, record
from model.cross_attention import KeysValues
from model.family import TokenizedText
from model.grid_maps import find_words, make_tokens
from model.interface import Item, MapRequest, MapStep, Output, Ranked, Task, TextOutput
from model.progress import step
from model.published.blip.base import FIRST_PATCH, NO_FAULTS, Blip, Faults, image_sources
from model.published.blip.decoder import Decoder, with_targets
from model.published.blip.text_stack import TextStack
from model.published.checkpoint import Loaded
from model.published.generation.config import BeamOptions, read_beam_options
from model.published.map_passes import GradientPass, forward_map, map_info, to_maps
from model.rows import Source

_SCORED_AT_ONCE = 1024  # tokens of candidate answers; bounds the memory of their logits


@dataclass(frozen=True, slots=True)
class _Questions:
    """A batch of questions after the encoder: ``kv`` ``[rows, ..]`` for every decoder layer."""

    kv: list[KeysValues]
    mask: Tensor | None

    def of(self, rows: Sequence[int], hypotheses: int) -> list[Source]:
        """These questions as what the decoder looks at, each for so many hypotheses."""
        if len(rows) == len(self.kv[0].keys):
            return [Source(self.kv, hypotheses, self.mask)]
        index = torch.tensor(rows, device=self.kv[0].keys.device)
        layers = [KeysValues(k[index], v[index]) for k, v in self.kv]
        return [Source(layers, hypotheses, None if self.mask is None else self.mask[index])]


@dataclass(frozen=True, slots=True)
class _Found:
    """What came of one question: the ranking, and the ids of its first answer."""

    output: TextOutput
    ids: tuple[int, ...]


def _steps(maps: MapRequest) -> tuple[MapStep, MapStep]:
    """How an answer token's map is composed: the same layers of the decoder and of the question encoder."""
    layers = maps.layers or ()
    return MapStep("answer", "question", layers), MapStep("question", "image", layers)


class BlipAnswer(Blip):
    """`BlipForQuestionAnswering`, generating with beams (as generation_config.json says) or ranking given
    candidates."""

    task = "answer"

    def __init__(self, loaded: Loaded, *, faults: Faults = NO_FAULTS) -> None:
        net = loaded.net
        super().__init__(loaded, stack=TextStack(net.text_encoder), faults=faults)
        room = net.config.text_config.max_position_embeddings - 1
        options = read_beam_options(loaded.folder, BeamOptions(max_new_tokens=10), room=room)
        self.info = replace(self.info, generation_defaults=options.shown())
        self.decoder = Decoder(TextStack(net.text_decoder.bert), net.text_decoder.cls, end=self.end_id, options=options)

    def _run(
        self, task: Task, items: Sequence[Item], texts: Sequence[Sequence[TokenizedText]], maps: MapRequest | None
    ) -> list[Output]:
        rows = [text for group in texts for text in group]
        ids, mask = self.question_ids(rows)
        sources = image_sources(items)
        with torch.no_grad():
            need = maps is not None and maps.kind != "gradient"
            encoded = self.stack(self.stack.embed(ids), sources, mask=mask, need_maps=need)
            questions = self._as_sources(encoded.states, mask)
            found = self._answers(items, questions)
            if maps is not None and maps.kind != "gradient":
                asked = forward_map(encoded.maps, encoded.self_maps, maps)
                answer_maps = self._composed(found, questions, asked, maps)
        if maps is not None and maps.kind == "gradient":
            asked, answer_maps = self._gradient(found, ids, mask, sources, maps)
        found = [
            replace(one, output=replace(one.output, token_count=len(text.ids)))
            for one, text in zip(found, rows, strict=True)
        ]
        starts = [0, *accumulate(len(item.texts) for item in items)]
        if maps is None:
            return [Output(tuple(f.output for f in found[a:b])) for a, b in pairwise(starts)]
        outputs = []
        for item, start in zip(items, starts, strict=False):
            results = [
                self._with_maps(found[row], item, text, rows[row], asked[row], answer_maps[row], maps)
                for row, text in enumerate(item.texts, start)
            ]
            outputs.append(Output(tuple(results), map_info(maps, _steps(maps))))
        return outputs

    def _as_sources(self, states: Tensor, mask: Tensor | None) -> _Questions:
        return _Questions(self.decoder.stack.project(states), None if self.faults.drop_mask else mask)

    # -- answers --------------------------------------------------------------------------------------------------

    def _answers(self, items: Sequence[Item], questions: _Questions) -> list[_Found]:
        found: dict[int, _Found] = {}
        free: list[tuple[int, Item]] = []
        row = 0
        for item in items:
            for _ in item.texts:
                if item.candidates is None:
                    free.append((row, item))
                else:
                    found[row] = self._rank(row, item, questions)
                row += 1
        if free:
            index = [at for at, _ in free]
            prompts = torch.full((len(free), 1), self.start_id, device=self.device)
            generated = self.decoder.generate(
                prompts,
                lambda rows, hypotheses: questions.of([index[i] for i in rows], hypotheses),
                [item.generation for _, item in free],
                room=self.net.config.text_config.max_position_embeddings - 1,
                decode=self.tokenizer.decode,
            )
            for (at, item), sequences in zip(free, generated, strict=True):
                scores: dict[str, float] = {}
                for sequence in sequences:
                    text = self.tokenizer.decode(sequence.ids)
                    scores[text] = scores.get(text, 0.0) + math.exp(sequence.log_probability)
                ranking = tuple(Ranked(text, score) for text, score in scores.items())[: item.top_k]
                count = len(sequences[0].ids)
                found[at] = _Found(TextOutput(ranking, "sequence", None, answer_token_count=count), sequences[0].ids)
        return [found[at] for at in range(row)]

    def _rank(self, row: int, item: Item, questions: _Questions) -> _Found:
        """The candidates, by the probability that the decoder says just that one."""
        candidates = item.candidates or ()
        ids = [self.tokenizer(candidate).ids[1:-1] for candidate in candidates]
        scores: list[Tensor] = []
        at_once = max(1, _SCORED_AT_ONCE // (1 + max(map(len, ids))))
        for start in range(0, len(ids), at_once):
            step()
            part = ids[start : start + at_once]
            rest = [[*one, self.end_id] for one in part]
            fed, targets = with_targets([[self.start_id]] * len(part), rest, fill=self.pad_id, device=self.device)
            states = self.decoder.feed(fed, questions.of([row], len(part))).states
            scores.append(self.decoder.log_probabilities(states, targets).sum(1))
        best = torch.cat(scores).softmax(0).sort(descending=True, stable=True)
        order, probabilities = best.indices.tolist(), best.values.tolist()
        ranking = tuple(Ranked(candidates[i], p) for i, p in zip(order, probabilities, strict=True))[: item.top_k]
        rest_share = max(0.0, 1.0 - sum(ranked.score for ranked in ranking))
        return _Found(TextOutput(ranking, "candidates", rest_share), tuple(ids[order[0]]))

    def _score(self, source: Source, text: str, answer: str) -> Tensor:
        """The probability that the decoder says just this answer."""
        ids, _ = self.question_ids([self.tokenizer(text)])
        states = self.stack(self.stack.embed(ids).expand(source.count, -1, -1), [source]).states
        rest = [[*self.tokenizer(answer).ids[1:-1], self.end_id]] * source.count
        fed, targets = with_targets([[self.start_id]] * source.count, rest, fill=self.pad_id, device=self.device)
        decoded = self.decoder.feed(fed, self._as_sources(states, None).of(range(source.count), 1))
        return self.decoder.log_probabilities(decoded.states, targets).sum(1).exp()

    # -- maps -----------------------------------------------------------------------------------------------------

    def _feed_answers(self, found: Sequence[_Found]) -> tuple[Tensor, Tensor]:
        rest = [[*one.ids, self.end_id] for one in found]
        return with_targets([[self.start_id]] * len(found), rest, fill=self.pad_id, device=self.device)

    def _composed(
        self, found: Sequence[_Found], questions: _Questions, asked: Tensor, maps: MapRequest
    ) -> list[Tensor]:
        """For each answer ``[1 + tokens, keys]``: of the start token and of each of its own."""
        fed, _ = self._feed_answers(found)
        decoded = self.decoder.feed(fed, questions.of(range(len(found)), 1), need_maps=True)
        taken = forward_map(decoded.maps, decoded.self_maps, maps)  # [rows, answer tokens, question tokens]
        return [m[: 1 + len(one.ids)] for m, one in zip(compose(taken, asked), found, strict=True)]

    def _gradient(
        self, found: Sequence[_Found], ids: Tensor, mask: Tensor | None, sources: Sequence[Source], maps: MapRequest
    ) -> tuple[Tensor, list[Tensor]]:
        """Maps of the questions ``[rows, tokens, keys]``, from the log-probability of the whole answer; and for each
        answer ``[1 + tokens, keys]``: the question's maps added up, of the whole answer and of each token's own."""
        layers = maps.layers or ()
        fed, targets = self._feed_answers(found)
        with record(self.net, [self.stack.cross_layers[i] for i in layers]) as calls:
            embedded = self.stack.embed(ids).detach().requires_grad_()
            encoded = self.stack(embedded, sources, mask=mask)
            questions = self._as_sources(encoded.states, mask)
            states = self.decoder.feed(fed, questions.of(range(len(found)), 1)).states
            scores = self.decoder.log_probabilities(states, targets)
            passed = GradientPass(calls, layers, sources)
            gradients = [passed.backward(scores[:, place].sum()) for place in range(scores.shape[1])]
        with torch.no_grad():
            padding = None if mask is None else ~mask[:, :, None]
            each = [passed.maps(g) for g in gradients]
            whole = passed.maps([torch.stack(parts).sum(0) for parts in zip(*gradients, strict=True)])
            if padding is not None:
                each = [m.masked_fill(padding, 0.0) for m in each]
                whole = whole.masked_fill(padding, 0.0)
            answers = [
                torch.stack([whole[row].sum(0), *(each[place][row].sum(0) for place in range(len(one.ids)))])
                for row, one in enumerate(found)
            ]
        return whole, answers

    def _with_maps(
        self,
        found: _Found,
        item: Item,
        text: str,
        tokens: TokenizedText,
        asked: Tensor,
        answered: Tensor,
        maps: MapRequest,
    ) -> TextOutput:
        geometry = item.image.geometry
        whole = maps.kind != "gradient"
        question = to_maps(asked[: len(tokens.ids)], geometry, FIRST_PATCH, whole=whole)
        total = answered.mean(0, keepdim=True) if whole else answered[:1]
        answer_map, *each = to_maps(torch.cat([total, answered[1:]]), geometry, FIRST_PATCH, whole=whole)
        answer = found.output.ranking[0].answer
        spans = self.tokenizer.spans_in(answer, found.ids)
        return replace(
            found.output,
            tokens=make_tokens(self.question_tokens(tokens), tokens.spans, question),
            words=find_words(text, tokens.spans),
            answer_map=answer_map,
            answer_tokens=make_tokens(self.tokenizer.texts(found.ids), spans, each),
            answer_words=find_words(answer, spans),
        )
