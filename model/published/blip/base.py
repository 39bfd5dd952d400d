"""BLIP: answers, captions and image-text matching through our cross-attention.

The image is encoded once and becomes the keys and values of every text layer; texts then ask it. Two faults of the
library's version are put right here (`Faults` brings them back, to compare):

* its cross-attention drops the mask, so that padding among the questions of a batch changes the answers;
* the first token of a question must be ``[ENC]``, as in training, not ``[CLS]`` (transformers#22732).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from model.cross_attention import KeysValues
from model.family import TokenizedText
from model.interface import EncodedImage, Geometry, Item, MapKind, ModelInfo, Pixels, Task
from model.published.blip.text_stack import TextStack
from model.published.checkpoint import Loaded
from model.published.family import PublishedFamily, to_input
from model.published.generation.sessions import FOLLOWED
from model.published.tokenizer import pad
from model.rows import Source

FIRST_PATCH = 1  # key 0 is the vision tower's CLS
_MASKED_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Faults:
    """What the library's version does wrong, each to be switched on for a comparison with it."""

    drop_mask: bool = False
    keep_cls: bool = False


NO_FAULTS = Faults()


@dataclass(frozen=True, slots=True)
class BlipImage:
    """An encoded image: its keys and values ``[1, heads, keys, head_dim]`` for every text layer."""

    layers: list[KeysValues]
    geometry: Geometry
    batch_key: Hashable = "blip"

    @property
    def nbytes(self) -> int:
        """The memory of all keys and values, in bytes."""
        return sum(layer.nbytes for layer in self.layers)


class VisionAttention(nn.Module):
    """The vision tower's self-attention, through PyTorch's fused function: the library's is written out."""

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        self.num_heads = theirs.num_heads
        self.qkv, self.projection = theirs.qkv, theirs.projection

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
        """``[images, keys, dim]`` -> the same."""
        q, k, v = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.projection(attended.transpose(1, 2).flatten(2)), None


class Blip(PublishedFamily):
    """The part that all tasks share: images, tokens, and the maps of a stack that looks at images."""

    task: Task
    stack: TextStack  # the one that looks at the image

    def __init__(self, loaded: Loaded, *, stack: TextStack, faults: Faults = NO_FAULTS, spare: int = 0) -> None:
        """``spare``: positions that generation needs behind the text."""
        self.net = loaded.net.eval().requires_grad_(False)
        self.stack = stack
        self.tokenizer = loaded.tokenizer
        self.device = loaded.device
        self.faults = faults
        self._normalization = loaded.normalization
        for layer in self.net.vision_model.encoder.layers:
            layer.self_attn = VisionAttention(layer.self_attn)
        config = loaded.net.config.text_config
        self.pad_id = _token_id(loaded, "pad_token_id")
        self.start_id = _token_id(loaded, "bos_token_id")
        self.end_id = _token_id(loaded, "sep_token_id")
        self.encode_id = self._encode_id(config)
        kinds: tuple[MapKind, ...] = ("raw", "gradient", "rollout")
        self.info = ModelInfo(
            id=loaded.id,
            revision=loaded.revision,
            tasks=(self.task,),
            map_kinds=kinds,
            default_map_kind="raw",
            layers=tuple(range(len(stack.layers))),
            rows=loaded.resize.rows,
            columns=loaded.resize.columns,
            max_tokens=config.max_position_embeddings - spare,
            preprocess=loaded.resize,
            generation=() if self.task == "match" else FOLLOWED[:-1],
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, and so of pixels, keys and values."""
        dtype: torch.dtype = self.net.dtype
        return dtype

    def _encode_id(self, config: Any) -> int | None:
        """The id of ``[ENC]``. Published tokenizers lack it: it is the embedding behind ``[DEC]``, the start token."""
        known = self.tokenizer.hub.get_vocab().get("[ENC]")
        if known is not None:
            return int(known)
        return self.start_id + 1 if self.start_id + 1 < config.vocab_size else None

    @torch.no_grad()
    def encode(self, images: Sequence[Pixels]) -> list[EncodedImage]:
        """Run the vision tower over a batch of images, and project its states to every text layer's keys and values."""
        pixels = to_input(images, self._normalization, self.device, self.dtype)
        states = self.net.vision_model(pixel_values=pixels).last_hidden_state
        layers = self.stack.project(states)
        # Cloned, so that an image of the batch does not keep all the others in memory.
        return [
            BlipImage([KeysValues(k[i : i + 1].clone(), v[i : i + 1].clone()) for k, v in layers], image.geometry)
            for i, image in enumerate(images)
        ]

    def score_masked(
        self, image: EncodedImage, text: str, keep: NDArray[np.bool_], answer: str
    ) -> NDArray[np.floating[Any]]:
        """The probability ``[n]`` of ``answer`` with attention limited to the patches that are True in ``keep`` ``[n,
        rows, columns]`` and to the vision tower's class token. Used to measure what maps are worth.

        Raises TypeError for an image that another model encoded.
        """
        if not isinstance(image, BlipImage):
            raise TypeError("an image that this model did not encode")
        patches = torch.from_numpy(keep.reshape(len(keep), -1)).to(self.device)
        allowed = torch.cat([patches.new_ones(len(keep), FIRST_PATCH), patches], 1)
        scores = []
        with torch.no_grad():
            for part in torch.split(allowed, _MASKED_AT_ONCE):
                each = (len(part), -1, -1, -1)
                layers = [KeysValues(keys.expand(each), values.expand(each)) for keys, values in image.layers]
                scores.append(self._score(Source(layers, mask=part), text, answer))
        result: NDArray[np.floating[Any]] = torch.cat(scores).float().cpu().numpy()
        return result

    def question_ids(self, texts: Sequence[TokenizedText]) -> tuple[Tensor, Tensor | None]:
        """Ids ``[rows, tokens]`` that begin with ``[ENC]``, and their mask."""
        rows = [list(text.ids) for text in texts]
        if self.encode_id is not None and not self.faults.keep_cls:
            for row in rows:
                row[0] = self.encode_id
        return pad(rows, self.pad_id, self.device)

    def question_tokens(self, text: TokenizedText) -> list[str]:
        """The tokens as they were fed."""
        fed_enc = self.encode_id is not None and not self.faults.keep_cls
        return ["[ENC]", *text.texts[1:]] if fed_enc else text.texts

    @abstractmethod
    def _score(self, source: Source, text: str, answer: str) -> Tensor:
        """How probable ``answer`` to ``text`` is for each of the ``[n]`` images of ``source``."""


def _token_id(loaded: Loaded, name: str) -> int:
    config = loaded.net.config.text_config
    found = getattr(config, name)
    if not isinstance(found, int) or not 0 <= found < config.vocab_size:
        raise ValueError(
            f"{loaded.id}: the {name} of its text_config, {found!r}, is none of {config.vocab_size} tokens"
        )
    return found


def image_sources(items: Sequence[Item]) -> list[Source]:
    """Each item's image, asked by all the item's texts."""
    return [Source(item.image.layers, rows=len(item.texts)) for item in items]  # type: ignore[attr-defined]
