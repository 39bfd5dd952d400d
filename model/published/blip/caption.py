"""BLIP for captions: the decoder looks at the image itself, so every word of a caption has its own map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from model.attribution import record
from model.family import TokenizedText
from model.grid_maps import find_words, make_tokens
from model.interface import Item, MapRequest, Output, Ranked, Task, TextOutput
from model.published.blip.base import FIRST_PATCH, NO_FAULTS, Blip, Faults, image_sources
from model.published.blip.decoder import Decoder, with_targets
from model.published.blip.text_stack import TextStack
from model.published.checkpoint import Loaded
from model.published.generation.beam_search import Generated
from model.published.generation.config import BeamOptions, read_beam_options
from model.published.map_passes import GradientPass, forward_map, map_info, to_maps
from model.rows import Source


class BlipCaption(Blip):
    """`BlipForConditionalGeneration`, generating with beams (as generation_config.json says) behind a prompt, which may
    be empty."""

    task = "caption"

    def __init__(self, loaded: Loaded, *, faults: Faults = NO_FAULTS) -> None:
        stack = TextStack(loaded.net.text_decoder.bert)
        room = loaded.net.config.text_config.max_position_embeddings // 2  # the other half is the prompt's
        options = read_beam_options(loaded.folder, BeamOptions(max_new_tokens=20), room=room)
        super().__init__(loaded, stack=stack, faults=faults, spare=options.max_new_tokens)
        self.info = replace(self.info, generation_defaults=options.shown())
        self.decoder = Decoder(stack, loaded.net.text_decoder.cls, end=self.end_id, options=options)

    def _run(
        self, task: Task, items: Sequence[Item], texts: Sequence[Sequence[TokenizedText]], maps: MapRequest | None
    ) -> list[Output]:
        prompts = [[self.start_id, *text.ids[1:-1]] for group in texts for text in group]
        images = [item for item in items for _ in item.texts]
        with torch.no_grad():
            generated = self._generate(prompts, images)
        rest = [[*one.ids, self.end_id] for one in generated]
        kept = None if maps is None else self._maps(prompts, rest, items, maps)
        outputs = []
        row = 0
        for item, group in zip(items, texts, strict=True):
            results = []
            for text, tokens in zip(item.texts, group, strict=True):
                rows = None if kept is None else kept[row][: len(prompts[row]) + len(rest[row]) - 1]
                results.append(self._caption(text, tokens, generated[row], item, rows, maps))
                row += 1
            outputs.append(Output(tuple(results), None if maps is None else map_info(maps)))
        return outputs

    def _score(self, source: Source, text: str, answer: str) -> Tensor:
        """The geometric mean of the probabilities of the caption's tokens behind the prompt, its end included."""
        given, whole = self.tokenizer(text).ids[1:-1], self.tokenizer(answer).ids[1:-1]
        rest = [[*whole[len(given) :], self.end_id]] * source.count
        start = [[self.start_id, *given]] * source.count
        fed, targets = with_targets(start, rest, fill=self.pad_id, device=self.device)
        found = self.decoder.log_probabilities(self.decoder.feed(fed, [source]).states, targets)
        return (found.sum(1) / len(rest[0])).exp()

    def _generate(self, prompts: Sequence[Sequence[int]], images: Sequence[Item]) -> list[Generated]:
        """The best continuation of each prompt. Prompts of one length run together, without padding."""
        best: dict[int, Generated] = {}
        for length in sorted({len(prompt) for prompt in prompts}):
            members = [i for i, prompt in enumerate(prompts) if len(prompt) == length]

            def sources(rows: Sequence[int], hypotheses: int, members: list[int] = members) -> list[Source]:
                return _by_image([images[members[row]] for row in rows], hypotheses)

            ids = torch.tensor([prompts[i] for i in members], device=self.device)
            found = self.decoder.generate(
                ids,
                sources,
                [images[i].generation for i in members],
                room=self.net.config.text_config.max_position_embeddings - length,
                decode=self.tokenizer.decode,
            )
            best.update((i, sequences[0]) for i, sequences in zip(members, found, strict=True))
        return [best[i] for i in range(len(prompts))]

    def _maps(
        self, prompts: Sequence[Sequence[int]], rest: Sequence[Sequence[int]], items: Sequence[Item], maps: MapRequest
    ) -> Tensor:
        """``[rows, tokens, keys]``: of the start token, the prompt and the caption, each asking as what it is."""
        fed, targets = with_targets(prompts, rest, fill=self.pad_id, device=self.device)
        sources = image_sources(items)
        if maps.kind != "gradient":
            with torch.no_grad():
                decoded = self.decoder.feed(fed, sources, need_maps=True)
                return forward_map(decoded.maps, decoded.self_maps, maps)
        layers = maps.layers or ()
        with record(self.net, [self.stack.cross_layers[i] for i in layers]) as calls:
            embedded = self.stack.embed(fed).detach().requires_grad_()
            states = self.stack(embedded, sources, causal=True).states
            score = self.decoder.log_probabilities(states, targets).sum()
            passed = GradientPass(calls, layers, sources)
            gradients = passed.backward(score)
        with torch.no_grad():
            return passed.maps(gradients)

    def _caption(
        self,
        prompt: str,
        tokens: TokenizedText,
        made: Generated,
        item: Item,
        rows: Tensor | None,
        maps: MapRequest | None,
    ) -> TextOutput:
        """``rows`` ``[1 + prompt + caption, keys]``."""
        caption, start = self._join(prompt, tokens.ids[1:-1], made.ids)
        ranking = (Ranked(caption, math.exp(made.log_probability)),)
        read, count = len(tokens.ids) - 1, len(made.ids)
        if rows is None or maps is None:
            return TextOutput(ranking, "sequence", None, token_count=read, answer_token_count=count)
        whole = maps.kind != "gradient"
        total = rows.mean(0, keepdim=True)
        caption_map, *each = to_maps(torch.cat([total, rows[1:]]), item.image.geometry, FIRST_PATCH, whole=whole)
        ids = [*tokens.ids[1:-1], *made.ids]
        given = tokens.spans[1:-1] if start is not None else []
        spans = [*given, *self.tokenizer.spans_in(caption, ids[len(given) :], start or 0)]
        return TextOutput(
            ranking,
            "sequence",
            None,
            answer_map=caption_map,
            answer_tokens=make_tokens(self.tokenizer.texts(ids), spans, each),
            answer_words=find_words(caption, spans),
            token_count=read,
            answer_token_count=count,
        )

    def _join(self, prompt: str, given: Sequence[int], made: Sequence[int]) -> tuple[str, int | None]:
        """The caption, beginning with the prompt as it was sent, and where the generated part starts (None: unknown,
        since the words of the prompt and of the caption ran together)."""
        whole, before = self.tokenizer.decode([*given, *made]), self.tokenizer.decode(given)
        prompt = prompt.rstrip()
        if not given or not whole.startswith(before):
            return whole, None if given else 0
        return prompt + whole[len(before) :], len(prompt)


def _by_image(rows: Sequence[Item], hypotheses: int) -> list[Source]:
    """Rows of the same image that stand side by side, as one source."""
    sources: list[Source] = []
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end] is not rows[start]:
            layers = rows[start].image.layers  # type: ignore[attr-defined]
            sources.append(Source(layers, (end - start) * hypotheses))
            start = end
    return sources
