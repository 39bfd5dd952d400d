"""BLIP for image-text matching: each text asks the image, and a head says how well the two fit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.attribution import record
from model.family import TokenizedText
from model.grid_maps import find_words, make_tokens
from model.interface import Item, MapRequest, Output, Ranked, Task, TextOutput
from model.published.blip.base import FIRST_PATCH, NO_FAULTS, Blip, Faults, image_sources
from model.published.blip.text_stack import TextStack
from model.published.checkpoint import Loaded
from model.published.map_passes import GradientPass, forward_map, map_info, to_maps
from model.rows import Source


class BlipMatch(Blip):
    """`BlipForImageTextRetrieval` with its matching head (not its dual encoder)."""

    task = "match"

    def __init__(self, loaded: Loaded, *, faults: Faults = NO_FAULTS) -> None:
        super().__init__(loaded, stack=TextStack(loaded.net.text_encoder), faults=faults)

    def _run(
        self, task: Task, items: Sequence[Item], texts: Sequence[Sequence[TokenizedText]], maps: MapRequest | None
    ) -> list[Output]:
        rows = [text for group in texts for text in group]
        ids, mask = self.question_ids(rows)
        sources = image_sources(items)
        with torch.no_grad():
            need = maps is not None and maps.kind != "gradient"
            encoded = self.stack(self.stack.embed(ids), sources, mask=mask, need_maps=need)
            odds = self._odds(encoded.states)
            kept = forward_map(encoded.maps, encoded.self_maps, maps) if need and maps is not None else None
        if maps is not None and maps.kind == "gradient":
            kept = self._gradient(ids, mask, sources, maps)
        outputs = []
        row = 0
        for item in items:
            of_item = odds[row : row + len(item.texts)]
            shares, fits = of_item.softmax(0).tolist(), of_item.sigmoid().tolist()
            results = []
            for text, share, fit in zip(item.texts, shares, fits, strict=True):
                ranking = (Ranked(text, share),)
                output = TextOutput(ranking, "candidates", None, token_count=len(rows[row].ids), fit=fit)
                if maps is not None and kept is not None:
                    output = self._with_maps(output, item, text, rows[row], kept[row], maps)
                results.append(output)
                row += 1
            outputs.append(Output(tuple(results), None if maps is None else map_info(maps)))
        return outputs

    def _score(self, source: Source, text: str, answer: str) -> Tensor:
        """The probability that the text fits; ``answer`` is the text again."""
        ids, _ = self.question_ids([self.tokenizer(text)])
        embedded = self.stack.embed(ids).expand(source.count, -1, -1)
        return self._odds(self.stack(embedded, [source]).states).sigmoid()

    def _odds(self, states: Tensor) -> Tensor:
        """The log-odds ``[rows]`` that text and image fit."""
        logits = self.net.itm_head(states[:, 0]).float()
        odds: Tensor = logits[:, 1] - logits[:, 0]
        return odds

    def _gradient(self, ids: Tensor, mask: Tensor | None, sources: Sequence[Source], maps: MapRequest) -> Tensor:
        """``[rows, tokens, keys]``, from each text's own log-odds."""
        layers = maps.layers or ()
        with record(self.net, [self.stack.cross_layers[i] for i in layers]) as calls:
            embedded = self.stack.embed(ids).detach().requires_grad_()
            odds = self._odds(self.stack(embedded, sources, mask=mask).states)
            passed = GradientPass(calls, layers, sources)
            gradients = passed.backward(odds.sum())
        with torch.no_grad():
            return passed.maps(gradients)

    def _with_maps(
        self, output: TextOutput, item: Item, text: str, tokens: TokenizedText, rows: Tensor, maps: MapRequest
    ) -> TextOutput:
        rows = rows[: len(tokens.ids)]
        whole = maps.kind != "gradient"
        # The head reads the first token; a gradient reaches the score through all of them.
        total = rows[:1] if whole else rows.sum(0, keepdim=True)
        text_map, *each = to_maps(torch.cat([total, rows]), item.image.geometry, FIRST_PATCH, whole=whole)
        return TextOutput(
            output.ranking,
            output.score_over,
            output.rest,
            tokens=make_tokens(self.question_tokens(tokens), tokens.spans, each),
            words=find_words(text, tokens.spans),
            answer_map=text_map,
            token_count=output.token_count,
            fit=output.fit,
        )
