"""Models that attend to image tokens among their text (LLaVA and its kin): answers, and where every word looked.

An image is encoded once: its features, and then the keys and values of the prompt's *prefix*, which is all up to the
image's last token. Every question about the image attends to these; they are neither copied nor computed again.
Answers are written without maps. Where maps are asked for, one more pass over the question and the finished answer
keeps queries and log-sum-exps, and from these come the rows of question and answer over the image's columns alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DynamicCache

from model import progress
from model.cross_attention import KeysValues
from model.family import TokenizedText
from model.grid_maps import find_words, make_tokens
from model.interface import (
    EncodedImage,
    Item,
    ItemError,
    MapRequest,
    ModelInfo,
    Output,
    Pixels,
    Ranked,
    Task,
    TextOutput,
)
from model.published.attention import AttentionPass
from model.published.causal.items import Asked, CausalImage
from model.published.causal.maps import looked_at, mean_map, on_grid, sink_share
from model.published.causal.prompts import ChatPrompt
from model.published.causal.stack import Prefix, TextStack, kv_bytes
from model.published.causal.streaming import RowWriting
from model.published.causal.vision import ImageTokens, Placement, joined
from model.published.checkpoint import LoadRequest
from model.published.family import PublishedFamily
from model.published.generation.batch import Batch, Row, WritingOptions
from model.published.generation.config import ends_of, read_writing_defaults
from model.published.generation.detokenizer import Detokenizer
from model.published.generation.sessions import FOLLOWED
from model.published.map_passes import map_info
from model.published.tokenizer import Tokenizer

MAX_NEW_TOKENS = 128
"""Tokens of an answer where a request names no limit."""
MAX_QUESTION_TOKENS = 2048
MOST_IMAGES = 8
"""Images of one question: what they cost grows with the square of their tokens."""


class CausalVLM(PublishedFamily):
    """A causal vision-language model. ``images`` says what is special to its family."""

    def __init__(self, net: Any, tokenizer: Tokenizer, images: ImageTokens, request: LoadRequest) -> None:
        self.net = net.eval().requires_grad_(False)
        self.tokenizer, self.images, self.image_bytes = tokenizer, images, request.image_bytes
        self.device = request.device
        for layers in (module for module in net.modules() if isinstance(module, nn.ModuleList)):
            for layer in layers:  # a large image takes a CPU a minute: it says layer by layer that it comes on
                layer.register_forward_pre_hook(_came_on)
        self.ends = ends_of(net.generation_config, net.config.get_text_config(), tokenizer.hub)
        self.stack = TextStack(net, tokenizer, frozenset(self.ends))
        self.prompt = ChatPrompt(
            request.folder,
            tokenizer,
            placeholder=images.placeholder,
            image_token=images.image_token,
            after=images.after,
            template=images.template,
        )
        config = net.config.get_text_config()
        if getattr(config, "attn_logit_softcapping", None) is not None:
            raise ValueError(f"{request.folder}: its attention scores are capped (Gemma 2), which is not computed here")
        self.context = int(config.max_position_embeddings)
        self.defaults = read_writing_defaults(
            net.generation_config, max_new_tokens=MAX_NEW_TOKENS, room=self.context // 2, where=request.folder
        )
        self.info = ModelInfo(
            id=request.id,
            revision=request.revision,
            tasks=("answer", "caption"),
            map_kinds=("raw",),
            default_map_kind="raw",
            layers=tuple(range(config.num_hidden_layers)),
            rows=images.rows,
            columns=images.columns,
            max_tokens=min(MAX_QUESTION_TOKENS, self.context // 2),
            preprocess=images.preprocess,
            generation=FOLLOWED,
            generation_defaults=self.defaults.shown(),
            streams=True,
            heads=int(config.num_attention_heads),
            images=MOST_IMAGES if self.prompt.takes_several else 1,
        )

    # -- images ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, images: Sequence[Pixels]) -> list[EncodedImage]:
        """Features of each image (or of several that go together), and keys and values of the prefix that it stands
        in."""
        return [self._encode(image) for image in images]

    def _encode(self, pixels: Pixels) -> CausalImage:
        parts = [replace(pixels, others=()), *pixels.others]
        expansions = [self.images.expand(part) for part in parts]
        features = joined([self.images.features(part) for part in parts])
        placement = Placement.joined(
            [
                (one.placement, one.text.count(self.images.image_token), part.geometry.rows * part.geometry.columns)
                for one, part in zip(expansions, parts, strict=True)
            ]
        )
        nothing = np.empty((0, 0, 3), np.uint8)
        light = tuple(replace(part, values=nothing, tiles=None, detail=None) for part in parts)
        image = CausalImage(self.prompt.prefix([one.text for one in expansions]), placement, light, features=features)
        needed = self.prefix_bytes(len(image.ids))  # known before they are made
        too_large = self.image_bytes is not None and needed > max(self.image_bytes, image.nbytes)
        if self.images.prefix_sees_question or too_large:
            return image
        return replace(image, prefix=self._read(image, image.ids)[0], features=None)

    def prefix_bytes(self, tokens: int) -> int:
        """The memory of a prefix's keys and values, in bytes, known before they are made."""
        return kv_bytes(self.net.config, tokens, self.net.dtype)

    def _read(
        self, image: CausalImage, ids: list[int], keep: Sequence[int] = (), tokens: slice = slice(None)
    ) -> tuple[Prefix, Tensor, AttentionPass]:
        """One pass over ``ids`` with the image's features: the prefix, its last state ``[dim]``, and the pass, which
        has kept ``keep`` of ``tokens``."""
        given = torch.tensor([ids], device=self.device)
        cache = DynamicCache()
        with AttentionPass(keep=keep, tokens=tokens) as running:
            output = self.net.model(
                input_ids=given,
                mm_encoder_outputs={"image": image.features},
                past_key_values=cache,
                use_cache=True,
                **self.images.context(given, image.pixels),
            )
        layers = [KeysValues(layer.keys, layer.values) for layer in cache.layers]
        columns = (given[0] == self.prompt.image_id).nonzero()[:, 0]
        first, last = int(columns[0]), int(columns[-1])
        together = slice(first, last + 1) if last + 1 - first == len(columns) else columns
        prefix = Prefix(layers, tuple(ids), together, self.images.next_position(len(ids)))
        return prefix, output.last_hidden_state[0, -1], running

    def _prefix(self, image: CausalImage) -> Prefix:
        """What questions about the image attend to: kept, or made for as long as one needs it."""
        found = image.prefix or image.lent.get("prefix")
        if found is None:
            found = self._read(image, image.ids)[0]
            image.lent["prefix"] = found
        return found

    # -- texts ----------------------------------------------------------------------------------------------------

    def tokenize(self, text: str) -> TokenizedText:
        """The tokens behind an image: the rest of the template around ``text``. Where that is blank (of a caption),
        an instruction stands in its place, none of whose tokens are the text's."""
        if text.strip():
            return self.prompt.tail(text)
        instruction = self.prompt.tail(self.images.describe)
        return instruction._replace(spans=[None] * len(instruction.spans))

    def _check_own(self, task: Task, item: Item, texts: Sequence[TokenizedText]) -> ItemError | None:
        image = _image_of(item)
        for index, text in enumerate(texts):
            used = len(image.ids) + len(text.ids)
            if used >= self.context:
                detail: dict[str, object] = {"tokens": used, "limit": self.context - 1}
                message = "The image and the text together have more tokens than the model takes."
                return ItemError("question_too_long", message, index, detail)
        return None

    def begin(self, item: Item, text: str, tokens: TokenizedText, maps: MapRequest | None) -> Asked:
        """A text made ready to be answered: its row may join a `Batch`."""
        image = _image_of(item)
        room = self.context - len(image.ids) - len(tokens.ids)
        options = WritingOptions.of(item.generation, self.defaults, limit=room)
        detokenizer = Detokenizer(self.stack.text_of, options.stop)
        asked = Asked(Row(list(tokens.ids), options, detokenizer), item, text, tokens, maps)
        self._attach(asked, image)
        return asked

    def _attach(self, asked: Asked, image: CausalImage) -> None:
        """Give the row what it attends to."""
        row = asked.row
        if not self.images.prefix_sees_question:
            row.source = prefix = self._prefix(image)
        else:
            maps = asked.maps
            keep = () if maps is None else maps.layers or ()
            count = len(row.prompt)
            prefix, last, running = self._read(image, [*image.ids, *row.prompt], keep, slice(-count, None))
            if maps is not None:
                asked.looked = mean_map(running, maps, prefix, slice(None))[0]
            row.source, row.prompt, row.first = prefix, [], self.stack.head(last)
        row.context = [*prefix.ids, *row.prompt]
        row.processors = self.defaults.processors(len(row.context), self.ends, self.device)

    def writing(self) -> RowWriting[Asked]:
        """Items answered token by token; see `model.interface.Writing`."""
        return RowWriting(self)

    def batch(self) -> Batch:
        """A batch that rows of this model may join."""
        return Batch(self.stack)

    @torch.no_grad()
    def _run(
        self, task: Task, items: Sequence[Item], texts: Sequence[Sequence[TokenizedText]], maps: MapRequest | None
    ) -> list[Output]:
        asked = [
            self.begin(item, text, tokens, maps)
            for item, group in zip(items, texts, strict=True)
            for text, tokens in zip(item.texts, group, strict=True)
        ]
        ranked = [self._choose(one) for one in asked if one.item.candidates is not None]
        free = [one for one in asked if one.item.candidates is None]
        batch = self.batch()
        if free:
            batch.join([one.row for one in free])
        batch.finish()
        rankings = {id(one): ranking for one, ranking in ranked}
        found = self.finish(asked, rankings)
        results = iter(found)
        info = None if maps is None else map_info(maps)
        return [Output(tuple(next(results) for _ in item.texts), info) for item in items]

    def _choose(self, asked: Asked) -> tuple[Asked, tuple[Ranked, ...]]:
        """The candidates, ranked by how probable each is as the whole answer; the best becomes the row's answer."""
        candidates = asked.item.candidates or ()
        given = len(asked.tokens.ids)
        end = self.ends[0]
        space = "" if not self.prompt.after or self.prompt.after[-1].isspace() else " "
        targets = []
        for candidate in candidates:
            whole = self.prompt.tail(asked.text, space + candidate).ids
            targets.append([*whole[given:], end])
        scores: list[float] = []
        for start in range(0, len(targets), _TOGETHER):
            part = targets[start : start + _TOGETHER]
            scores += self._log_probabilities(asked.row, part)
        shares = torch.tensor(scores, dtype=torch.float64).softmax(0).tolist()
        order = sorted(range(len(candidates)), key=lambda i: -shares[i])
        for token in targets[order[0]][:-1]:
            asked.row.detokenizer.add(token)
        asked.row.detokenizer.end()
        asked.row.log_probability = scores[order[0]]
        asked.row.finish = "stop"
        ranking = tuple(Ranked(candidates[i], shares[i]) for i in order[: asked.item.top_k])
        return asked, ranking

    def _log_probabilities(self, row: Row, targets: Sequence[Sequence[int]]) -> list[float]:
        """Of each target behind the row's prompt."""
        if row.first is None:
            return self.stack.log_probabilities([row] * len(targets), targets)
        first = row.first.float().log_softmax(-1)
        rest = self.stack.log_probabilities(
            [replace(row, prompt=[target[0]]) for target in targets], [target[1:] for target in targets]
        )
        return [float(first[target[0]]) + more for target, more in zip(targets, rest, strict=True)]

    # -- results --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def finish(self, asked: Sequence[Asked], rankings: dict[int, tuple[Ranked, ...]] | None = None) -> list[TextOutput]:
        """What came of texts whose rows are finished, with the maps that they ask for."""
        looked = looked_at(self.stack, [one for one in asked if one.maps is not None])
        return [self._output(one, looked.get(id(one)), (rankings or {}).get(id(one))) for one in asked]

    def _output(self, one: Asked, looked: NDArray[np.float32] | None, ranking: tuple[Ranked, ...] | None) -> TextOutput:
        row, made = one.row, one.row.detokenizer
        answer = made.answer
        written = ranking is None
        ranking = ranking or (Ranked(answer, math.exp(row.log_probability)),)
        result = TextOutput(
            ranking,
            "sequence" if written else "candidates",
            None,
            token_count=len(one.tokens.ids),
            answer_token_count=len(made.ids),
            choices=tuple(row.choices),
            finish=row.finish or "stop",
        )
        if looked is None:
            return result
        image = _image_of(one.item)
        maps = on_grid(looked, image)
        asked_maps = maps[: len(one.tokens.ids)]
        first = len(one.tokens.ids) - 1
        answer_maps = maps[first : first + len(made.ids)]
        mean = looked[first : first + max(1, len(made.ids))].mean(0, keepdims=True)
        spans = made.answer_spans
        texts = [answer[span[0] : span[1]] if span else "" for span in spans]
        names = [text or token for text, token in zip(texts, self.tokenizer.texts(made.ids), strict=True)]
        return replace(
            result,
            tokens=make_tokens(one.tokens.texts, one.tokens.spans, asked_maps),
            words=find_words(one.text, one.tokens.spans),
            answer_map=on_grid(mean, image)[0],
            sink_share=None if self.images.prefix_sees_question else sink_share(looked, one.tokens, mean[0]),
            answer_tokens=make_tokens(names, spans, answer_maps),
            answer_words=find_words(answer, spans),
        )


_TOGETHER = 32  # candidates in one pass


def _came_on(*_: object) -> None:
    progress.step()


def _image_of(item: Item) -> CausalImage:
    """Raises TypeError for an image that another model encoded."""
    if not isinstance(item.image, CausalImage):
        raise TypeError("an image that this model did not encode")
    return item.image
