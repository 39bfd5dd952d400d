"""ViLT for visual question answering: `ViltForQuestionAnswering`.

There is one stream of attention, so an image is kept as its embedded patches: what is cached is the preparation, and
every question runs all layers. A question token's map is its attention row over the columns of the image; what it took
from the question's own tokens, and from the image's class token, is `elsewhere`.

Answers come from the checkpoint's list. Its head has a sigmoid for each of them: a score is that answer's own
probability, and the scores of a ranking do not sum to 1.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from model.attribution import gradient_map, record
from model.cross_attention import KeysValues
from model.family import TokenizedText
from model.grid_maps import find_words, make_tokens
from model.interface import (
    EncodedImage,
    Geometry,
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
from model.published.checkpoint import LoadRequest
from model.published.family import PublishedFamily, to_input
from model.published.map_passes import GradientPass, map_info, to_maps
from model.published.preprocess import Normalization
from model.published.tokenizer import Tokenizer, pad
from model.published.vilt.preprocess import KeepShape
from model.published.vilt.stream import Stream

FIRST_PATCH = 1  # of an image's keys: key 0 is its class token
_MASKED_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class ViltImage:
    """An encoded image: its class token and patches, embedded, ``[1, 1 + rows * columns, dim]``."""

    states: Tensor
    geometry: Geometry
    batch_key: Hashable = "vilt"

    @property
    def nbytes(self) -> int:
        """The memory of the embedded patches, in bytes."""
        return self.states.nbytes


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows of question and image side by side: ``embedded`` ``[rows, text + image, dim]``, both padded to the longest,
    ``mask`` bool ``[rows, text + image]`` (None: no padding), and how long the padded ``text`` is."""

    embedded: Tensor
    mask: Tensor | None
    text: int


class ViltAnswer(PublishedFamily):
    """`ViltForQuestionAnswering`: ranks its own answers, or given candidates that are among them."""

    def __init__(
        self, net: Any, tokenizer: Tokenizer, resize: KeepShape, normalization: Normalization, request: LoadRequest
    ) -> None:
        self.net = net.eval().requires_grad_(False)
        self.tokenizer, self.device = tokenizer, request.device
        self._normalization = normalization
        self.stream = Stream(self.net.vilt)
        config = net.config
        self.answers = [str(config.id2label[i]) for i in range(config.num_labels)]
        self._answer_ids = {answer.strip().lower(): i for i, answer in reversed(list(enumerate(self.answers)))}
        side = config.image_size // config.patch_size
        self.info = ModelInfo(
            id=request.id,
            revision=request.revision,
            tasks=("answer",),
            map_kinds=("raw", "gradient", "rollout"),
            default_map_kind="raw",
            layers=tuple(range(config.num_hidden_layers)),
            rows=side,
            columns=side,
            max_tokens=config.max_position_embeddings,
            preprocess=resize,
        )

    @torch.no_grad()
    def encode(self, images: Sequence[Pixels]) -> list[EncodedImage]:
        """Embed the patches of each image: they differ in number, so there is no batch."""
        return [ViltImage(self._embed_image(image), image.geometry) for image in images]

    def _embed_image(self, image: Pixels) -> Tensor:
        """``[1, 1 + patches, dim]``: patches row by row, with positions stretched to the image's grid.

        transformers shuffles the patches and drops some where ``max_image_length`` is set: an aid of training.
        """
        own = self.net.vilt.embeddings
        patches = own.patch_embeddings(to_input([image], self._normalization, self.device, self.net.dtype))
        side = own.config.image_size // own.config.patch_size
        grid = own.position_embeddings[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        places = F.interpolate(grid, size=patches.shape[2:], mode="bilinear", align_corners=True)
        states = (patches + places).flatten(2).transpose(1, 2)
        whole = torch.cat([own.cls_token + own.position_embeddings[:, :1], states], 1)
        embedded: Tensor = whole + own.token_type_embeddings.weight[1]
        return embedded

    def _check_own(self, task: Task, item: Item, texts: Sequence[TokenizedText]) -> ItemError | None:
        """Candidates are ranked by the head, which knows its own answers alone."""
        if item.candidates is None or any(self._answer_id(c) is not None for c in item.candidates):
            return None
        message = f"None of the candidates is among the {len(self.answers)} answers of {self.info.id}."
        return ItemError("task_not_supported", message, None, {"candidates": len(item.candidates)})

    def _answer_id(self, answer: str) -> int | None:
        return self._answer_ids.get(answer.strip().lower())

    def _run(
        self, task: Task, items: Sequence[Item], texts: Sequence[Sequence[TokenizedText]], maps: MapRequest | None
    ) -> list[Output]:
        rows = [text for group in texts for text in group]
        images = [item.image for item in items for _ in item.texts]
        with torch.no_grad():
            batch = self._batch(rows, images)
            asking = {"raw": batch.text, "rollout": batch.embedded.shape[1]}.get(maps.kind or "", 0) if maps else 0
            streamed = self.stream(batch.embedded, batch.mask, need_maps_of=asking)
            logits = self._logits(streamed.states)
        looked: Tensor | None = None
        if maps is not None and maps.kind == "gradient":
            looked = self._gradient(batch, maps)
        elif maps is not None:
            chosen = [streamed.maps[layer] for layer in maps.layers or ()]
            looked = _rollout(chosen) if maps.kind == "rollout" else torch.stack(chosen).mean(0)
        outputs, row = [], 0
        for item in items:
            results = []
            for text in item.texts:
                found = replace(self._rank(logits[row], item), token_count=len(rows[row].ids))
                if maps is not None and looked is not None:
                    found = self._with_maps(found, text, rows[row], looked[row, :, batch.text :], item, maps)
                results.append(found)
                row += 1
            outputs.append(Output(tuple(results), None if maps is None else map_info(maps)))
        return outputs

    def _batch(self, texts: Sequence[TokenizedText], images: Sequence[EncodedImage]) -> _Batch:
        own = self.net.vilt.embeddings
        ids, mask = pad([text.ids for text in texts], self.tokenizer.hub.pad_token_id or 0, self.device)
        embedded = own.text_embeddings(input_ids=ids) + own.token_type_embeddings.weight[0]
        states: list[Tensor] = [image.states[0] for image in images]  # type: ignore[attr-defined]
        lengths = torch.tensor([len(one) for one in states], device=self.device)
        padded = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
        seen = torch.arange(padded.shape[1], device=self.device) < lengths[:, None]
        whole: Tensor | None = None
        if mask is not None or not bool(seen.all()):
            whole = torch.cat([torch.ones_like(ids, dtype=torch.bool) if mask is None else mask, seen], 1)
        return _Batch(torch.cat([embedded, padded], 1), whole, ids.shape[1])

    def _logits(self, states: Tensor) -> Tensor:
        """``[rows, answers]``, float32, read from the question's first token."""
        logits: Tensor = self.net.classifier(self.net.vilt.pooler(self.net.vilt.layernorm(states)))
        return logits.float()

    def _rank(self, logits: Tensor, item: Item) -> TextOutput:
        """The ranking by one row of logits ``[answers]``."""
        scores = logits.sigmoid()
        if item.candidates is None:
            best = scores.topk(min(item.top_k, len(scores)))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            return TextOutput(tuple(Ranked(self.answers[i], score) for i, score in pairs), "vocabulary", None)
        known = [self._answer_id(candidate) for candidate in item.candidates]
        each = [0.0 if i is None else scores[i].item() for i in known]
        total = sum(each) or 1.0
        ranked = [
            Ranked(candidate, score / total, i is not None)
            for candidate, score, i in zip(item.candidates, each, known, strict=True)
        ]
        ranking = tuple(sorted(ranked, key=lambda one: -one.score)[: item.top_k])
        return TextOutput(ranking, "candidates", max(0.0, 1.0 - sum(one.score for one in ranking)))

    def _gradient(self, batch: _Batch, maps: MapRequest) -> Tensor:
        """``[rows, text, keys]``: of the log-odds (the logit) of each row's best answer."""
        layers = maps.layers or ()
        attentions = [self.stream.attentions[layer] for layer in layers]
        with record(self.net, attentions) as calls:
            states = self.stream(batch.embedded.detach().requires_grad_(), batch.mask).states
            gradients = GradientPass(calls, layers, ()).backward(self._logits(states).max(1).values.sum())
        found = []
        for [call], gradient in zip(calls, gradients, strict=True):
            if call.kv is not None:  # always: it makes its own
                asking, part = call.queries.detach()[:, : batch.text], gradient[:, : batch.text]
                kv = KeysValues(call.kv.keys.detach(), call.kv.values.detach())
                found.append(gradient_map(asking, part, kv, mask=batch.mask))
        return torch.stack(found).mean(0)

    def _with_maps(
        self, found: TextOutput, text: str, tokens: TokenizedText, looked: Tensor, item: Item, maps: MapRequest
    ) -> TextOutput:
        """``looked`` ``[asking, image keys]``: rows of the question, over the image's class token and patches."""
        geometry, whole = item.image.geometry, maps.kind != "gradient"
        rows = looked[: len(tokens.ids), : FIRST_PATCH + geometry.rows * geometry.columns]
        read = rows[:1] if whole else rows.sum(0, keepdim=True)  # the head reads the first token
        answer_map, *each = to_maps(torch.cat([read, rows]), geometry, FIRST_PATCH, whole=whole)
        return replace(
            found,
            tokens=make_tokens(tokens.texts, tokens.spans, each),
            words=find_words(text, tokens.spans),
            answer_map=answer_map,
        )

    @torch.no_grad()
    def score_masked(
        self, image: EncodedImage, text: str, keep: NDArray[np.bool_], answer: str
    ) -> NDArray[np.floating[Any]]:
        """The probability ``[n]`` of ``answer`` with attention limited to the question, the image's class token and
        the patches that are True in ``keep`` ``[n, rows, columns]``. Used to measure what maps are worth.

        Raises KeyError for an answer that is none of the model's.
        """
        batch = self._batch([self.tokenizer(text)], [image])
        patches = torch.from_numpy(keep.reshape(len(keep), -1)).to(self.device)
        before = patches.new_ones(len(keep), batch.text + FIRST_PATCH)
        place = self._answer_ids[answer.strip().lower()]
        scores = [
            self._logits(self.stream(batch.embedded.expand(len(part), -1, -1), part).states)[:, place].sigmoid()
            for part in torch.split(torch.cat([before, patches], 1), _MASKED_AT_ONCE)
        ]
        result: NDArray[np.floating[Any]] = torch.cat(scores).cpu().numpy()
        return result


def _rollout(layers: Sequence[Tensor]) -> Tensor:
    """How much of each position's final state came from each key ``[rows, keys, keys]``, through these layers'
    attention ``[rows, keys, keys]``, which counts half, as its residual does (Abnar and Zuidema, ACL 2020)."""
    flow = torch.eye(layers[0].shape[-1], device=layers[0].device).expand_as(layers[0])
    for attention in layers:
        flow = 0.5 * (flow + attention @ flow)
    return flow
