"""The default model behind `model.interface.Model`: questions about an image, answered by a softmax over known answers.

A model's folder holds ``config.json``, ``model.safetensors`` (see `model.storage`), ``vocabulary.txt`` and
``answers.txt``. `tiny` is the same code at toy size with random weights; most tests run on it.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.compact_net import FIRST_PATCH, CompactConfig, CompactNet, ImageState
from model.interface import (
    EncodedImage,
    Geometry,
    Item,
    ItemError,
    MapInfo,
    ModelInfo,
    Output,
    Pixels,
    Ranked,
    ScoreOver,
    Task,
    TextOutput,
)
from model.preprocess import Squash
from model.storage import load_small, revision_of, save_small
from model.text import SPECIAL_TOKENS, TokenizedText, build_tokenizer, pad_ids, tokenize
from model.token_maps import find_words, make_tokens, place_on_grid

EMBEDDED = Path(__file__).parent / "weights" / "compact"
MATCH_PROMPT = "is this true? "  # the wording that training puts before a statement about the image
_MAX_UNKNOWN_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class CompactImage:
    """An encoded image: keys and values of every fusion layer, and what its places mean."""

    state: ImageState
    geometry: Geometry
    batch_key: Hashable = "compact"
    nbytes: int = field(init=False)

    def __post_init__(self) -> None:
        tensors = [self.state.meaning, *(tensor for layer in self.state.layers for tensor in layer)]
        object.__setattr__(self, "nbytes", sum(tensor.nbytes for tensor in tensors))


class CompactModel:
    """See `model.interface.Model` for what the methods promise."""

    def __init__(
        self,
        net: CompactNet,
        vocabulary: Sequence[str],
        answers: Sequence[str],
        *,
        id: str,
        revision: str,
        device: torch.device | str = "cpu",
    ) -> None:
        self.net = net.eval().requires_grad_(False).to(device)
        self.net.vision.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = torch.device(device)
        self.vocabulary = list(vocabulary)
        self.answers = list(answers)
        self.tokenizer = build_tokenizer(vocabulary)
        self._answer_index = {answer: i for i, answer in enumerate(answers)}
        config = net.config
        self.info = ModelInfo(
            id=id,
            revision=revision,
            tasks=("answer", "match") if {"yes", "no"} <= self._answer_index.keys() else ("answer",),
            map_kinds=() if config.blind else ("raw",),
            default_map_kind=None if config.blind else "raw",
            layers=tuple(range(config.fusion_layers)),
            rows=config.cells,
            columns=config.cells,
            max_tokens=config.max_tokens,
            preprocess=Squash(config.size, config.cells, config.cells),
        )
        self.encode_calls = 0

    @torch.no_grad()
    def encode(self, images: Sequence[Pixels]) -> list[EncodedImage]:
        self.encode_calls += 1
        pixels = torch.from_numpy(np.stack([image.values for image in images])).to(self.device)
        state = self.net.see(pixels)
        # Cloned, so that an image of the batch does not keep all the others in memory.
        return [
            CompactImage(
                ImageState(
                    [type(layer)(*(tensor[i : i + 1].clone() for tensor in layer)) for layer in state.layers],
                    state.meaning[i : i + 1].clone(),
                ),
                image.geometry,
            )
            for i, image in enumerate(images)
        ]

    @torch.no_grad()
    def run(self, task: Task, items: Sequence[Item]) -> list[Output | ItemError]:
        if task not in self.info.tasks:
            message = f"{self.info.id} cannot {task}; it can {', '.join(self.info.tasks)}"
            return [ItemError("task_not_supported", message)] * len(items)
        prompt = MATCH_PROMPT if task == "match" else ""
        outcomes: list[Output | ItemError | None] = []
        tokenized: list[list[TokenizedText]] = []
        for item in items:
            found = self._tokenize(item, prompt)
            outcomes.append(found if isinstance(found, ItemError) else None)
            tokenized.append([] if isinstance(found, ItemError) else found)
        for with_maps in (False, True):
            at = [i for i, item in enumerate(items) if outcomes[i] is None and (item.maps is not None) == with_maps]
            if at:
                outputs = self._run([items[i] for i in at], [tokenized[i] for i in at], task, with_maps)
                for i, output in zip(at, outputs, strict=True):
                    outcomes[i] = output
        return outcomes  # type: ignore[return-value]  # every None was filled

    def score_masked(
        self, image: EncodedImage, text: str, keep: NDArray[np.bool_], answer: str
    ) -> NDArray[np.floating[Any]]:
        """The probability ``[n]`` of ``answer`` to ``text`` where only the patches that ``keep`` ``[n, rows, columns]``
        has True may be attended. For measuring what maps are worth."""
        if not isinstance(image, CompactImage):
            raise TypeError("an image that this model did not encode")
        ids, mask = pad_ids([tokenize(self.tokenizer, text).ids])
        patches = torch.from_numpy(keep.reshape(len(keep), -1)).to(self.device)
        allowed = torch.cat([patches.new_ones(len(keep), FIRST_PATCH), patches], 1)
        count = len(keep)
        state = ImageState(
            [type(layer)(*(tensor.expand(count, -1, -1, -1) for tensor in layer)) for layer in image.state.layers],
            image.state.meaning.expand(count, -1, -1),
        )
        with torch.no_grad():
            fused = self.net.fuse(
                ids.to(self.device).expand(count, -1),
                mask.to(self.device).expand(count, -1),
                [(state, 1)],
                patch_mask=allowed,
            )
            probabilities = self.net.logits(fused.vector).softmax(-1)[:, self._answer_index[answer]]
        result: NDArray[np.floating[Any]] = probabilities.cpu().numpy()
        return result

    def save(self, folder: Path) -> None:
        """Write the model's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        save_small(self.net.state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text(
            json.dumps({"family": "compact", **asdict(self.net.config)}, indent=1) + "\n"
        )
        (folder / "vocabulary.txt").write_text("\n".join(self.vocabulary) + "\n", encoding="utf-8")
        (folder / "answers.txt").write_text("\n".join(self.answers) + "\n", encoding="utf-8")

    def _tokenize(self, item: Item, prompt: str) -> list[TokenizedText] | ItemError:
        if item.maps is not None:
            kind, layers = item.maps.kind, item.maps.layers or ()
            if kind not in (None, *self.info.map_kinds) or not set(layers) <= set(self.info.layers):
                message = f"maps are {', '.join(self.info.map_kinds)} of layers {list(self.info.layers)}"
                return ItemError("map_not_supported", message)
        found = []
        for index, text in enumerate(item.texts):
            tokens = tokenize(self.tokenizer, prompt + text)
            if not text.strip():
                return ItemError("question_empty", "The text is empty.", index)
            if len(tokens.ids) > self.info.max_tokens:
                detail: dict[str, object] = {"tokens": len(tokens.ids), "limit": self.info.max_tokens}
                return ItemError("question_too_long", "The text has more tokens than the model takes.", index, detail)
            share = tokenize(self.tokenizer, text).unknown_share if prompt else tokens.unknown_share
            if share > _MAX_UNKNOWN_SHARE:
                message = "More than half of the text is unknown to the model; it knows English."
                return ItemError("question_not_understood", message, index, {"unknown_share": round(share, 3)})
            found.append(tokens)
        return found

    def _run(
        self, items: Sequence[Item], tokenized: Sequence[Sequence[TokenizedText]], task: Task, with_maps: bool
    ) -> list[Output]:
        ids, mask = pad_ids([text.ids for texts in tokenized for text in texts])
        images = [(item.image.state, len(item.texts)) for item in items]  # type: ignore[attr-defined]
        fused = self.net.fuse(ids.to(self.device), mask.to(self.device), images, need_maps=with_maps)
        outputs, start = [], 0
        for item, texts in zip(items, tokenized, strict=True):
            rows = slice(start, start + len(texts))
            start += len(texts)
            answers = self._match(fused.vector[rows], item) if task == "match" else self._rank(fused.vector[rows], item)
            answers = [replace(a, token_count=len(text.ids)) for a, text in zip(answers, texts, strict=True)]
            if item.maps is None:
                outputs.append(Output(tuple(answers)))
                continue
            layers = item.maps.layers or self.info.layers
            maps = torch.stack([fused.maps[layer][rows] for layer in layers]).mean(0).float().cpu().numpy()
            skip = len(MATCH_PROMPT) if task == "match" else 0
            results = [
                self._with_maps(answer, item, text, tokens, maps[row], skip)
                for row, (answer, text, tokens) in enumerate(zip(answers, item.texts, texts, strict=True))
            ]
            outputs.append(Output(tuple(results), MapInfo("raw", tuple(layers))))
        return outputs

    def _with_maps(
        self, answer: TextOutput, item: Item, text: str, tokens: TokenizedText, maps: NDArray[np.float32], skip: int
    ) -> TextOutput:
        """``maps`` ``[tokens, keys]``; the first ``skip`` characters of what was tokenized are our prompt."""
        grid = item.image.geometry
        keep = [i for i, span in enumerate(tokens.spans) if span is None or span[1] > skip]
        spans = [None if span is None else (span[0] - skip, span[1] - skip) for span in (tokens.spans[i] for i in keep)]
        placed = [place_on_grid(maps[i], grid.rows, grid.columns, FIRST_PATCH) for i in keep]
        made = make_tokens([tokens.texts[i] for i in keep], spans, placed)
        return replace(answer, tokens=made, words=find_words(text, spans), answer_map=placed[0])

    def _rank(self, vectors: Tensor, item: Item) -> list[TextOutput]:
        """The best answers to each text, without maps."""
        names: Sequence[str]
        over: ScoreOver
        if item.candidates is not None:
            names, logits, over = item.candidates, self._candidate_logits(vectors, item.candidates), "candidates"
        else:
            names, logits, over = self.answers, self.net.logits(vectors), "vocabulary"
        best = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
        scores, order = best.values[:, : item.top_k].tolist(), best.indices[:, : item.top_k].tolist()
        ranked = []
        for row_scores, row_order in zip(scores, order, strict=True):
            ranking = tuple(Ranked(names[i], score) for i, score in zip(row_order, row_scores, strict=True))
            ranked.append(TextOutput(ranking, over, max(0.0, 1.0 - sum(row_scores))))
        return ranked

    def _candidate_logits(self, vectors: Tensor, candidates: Sequence[str]) -> Tensor:
        """Logits ``[rows, candidates]``. One outside the vocabulary gets its vector from its text."""
        known = [self._answer_index.get(candidate.strip().lower()) for candidate in candidates]
        weight = self.net.head.answers[[i or 0 for i in known]].clone()
        bias = self.net.head.bias[[i or 0 for i in known]].clone()
        unseen = [row for row, i in enumerate(known) if i is None]
        if unseen:
            limit = self.info.max_tokens
            ids, mask = pad_ids([tokenize(self.tokenizer, candidates[row]).ids[:limit] for row in unseen])
            weight[unseen] = self.unseen_answers(ids.to(self.device), mask.to(self.device))
            bias[unseen] = self.net.head.bias.median()
        return (vectors @ weight.T + bias) / self.net.config.temperature

    def unseen_answers(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The vectors ``[rows, meaning_dim]`` of answers outside the vocabulary, from their texts alone."""
        states = self.net.text(ids, mask)
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        vectors: Tensor = self.net.head.unseen(mean)
        return vectors

    def _match(self, vectors: Tensor, item: Item) -> list[TextOutput]:
        """The texts of an item against each other: how much rather *yes* than *no* the model says of each."""
        logits = self.net.logits(vectors)
        odds = logits[:, self._answer_index["yes"]] - logits[:, self._answer_index["no"]]
        scores = odds.softmax(0).tolist()
        return [
            TextOutput((Ranked(text, score),), "candidates", None)
            for text, score in zip(item.texts, scores, strict=True)
        ]


def load(folder: Path = EMBEDDED, *, id: str | None = None, device: torch.device | str = "cpu") -> CompactModel:
    """Load a model's folder. Raises FileNotFoundError or ValueError where it is none."""
    values = json.loads((folder / "config.json").read_text())
    if values.pop("family", None) != "compact":
        raise ValueError(f"{folder} does not hold a compact model")
    vocabulary = (folder / "vocabulary.txt").read_text(encoding="utf-8").splitlines()
    answers = (folder / "answers.txt").read_text(encoding="utf-8").splitlines()
    with torch.device("meta"):  # no time spent on random weights that are replaced at once
        net = CompactNet(CompactConfig(**values), vocabulary=len(vocabulary), answers=len(answers))
    net.load_state_dict(load_small(folder / "model.safetensors"), assign=True)
    for name, buffer in net.named_buffers():  # positions 0, 1, 2, ..., which transformers does not store
        if buffer.is_meta:
            _replace_buffer(net, name)
    files = [folder / name for name in ("config.json", "model.safetensors", "vocabulary.txt", "answers.txt")]
    return CompactModel(net, vocabulary, answers, id=id or folder.name, revision=revision_of(files), device=device)


def _replace_buffer(net: CompactNet, name: str) -> None:
    """Fill a buffer of the text encoder's embeddings that is not stored."""
    owner = net.get_submodule(name.rpartition(".")[0])
    short = name.rpartition(".")[2]
    shape = getattr(owner, short).shape
    values = torch.arange(shape[-1]).expand(shape) if short == "position_ids" else torch.zeros(shape, dtype=torch.long)
    owner.register_buffer(short, values, persistent=False)


def tiny(*, seed: int = 0, device: torch.device | str = "cpu") -> CompactModel:
    """The same model at toy size with random weights: 64 px, a 4x4 grid, 8 answers. For tests."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789?.,'!-"
    words = "what is the color of cat dog how many are there where this a in on true does it show man people"
    vocabulary = [*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters), *words.split()]
    config = CompactConfig(
        vision="tiny",
        size=64,
        dim=24,
        num_heads=2,
        cross_heads=2,
        cross_dim=24,
        patch_dim=16,
        text_layers=1,
        fusion_layers=2,
        meaning_dim=12,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        answers = ["yes", "no", "cat", "dog", "red", "blue", "1", "2"]
        net = CompactNet(config, vocabulary=len(vocabulary), answers=len(answers))
        for module in net.vision.modules():  # as born, features would hardly differ from image to image
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        for layer in net.fusion.layers:  # louder than at birth, so that maps are not flat
            for linear in (layer.cross.wq, layer.cross.wk):  # type: ignore[union-attr]
                torch.nn.init.normal_(linear.weight, std=0.6)  # type: ignore[union-attr,arg-type]
    return CompactModel(net, vocabulary, answers, id="tiny", revision=f"seed:{seed}", device=device)
