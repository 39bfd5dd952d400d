"""Llama 3.2 Vision (Mllama): `MllamaForConditionalGeneration`.

A word looks at the image in the layers of cross-attention alone, so its raw map is their probabilities. An image is
kept as the keys and values of those layers, for the tiles that it has; or, where those would take more than an image
should (half of the cache), as the four times smaller features that they are projected from.

One thing is put right that transformers does otherwise: tokens that stand before the image must get nothing from it.
There, such a row attends to every key, those of empty tiles included, since its mask is multiplied away; in Meta's own
code its result is set to 0, as here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from model.cross_attention import KeysValues
from model.interface import EncodedImage, Pixels, Task
from model.published.checkpoint import LoadRequest
from model.published.family import to_input
from model.published.generation.config import ends_of
from model.published.mllama.text_stack import MllamaStack
from model.published.mllama.tiles import Tiles
from model.published.preprocess import Normalization
from model.published.prompted.cross_reader import CrossImage, CrossReader
from model.published.prompted.prompts import Prompt, templated
from model.published.tokenizer import Tokenizer

LIMIT = 256  # tokens of an answer where neither request nor folder says
ROOM = 8192  # positions used, however many the model has
DESCRIBE = "Describe this image in one sentence."


class Mllama(CrossReader):
    """`MllamaForConditionalGeneration`, through the folder's chat template where it has one."""

    continues = False
    answer_follows = ""

    def __init__(
        self,
        net: Any,
        tokenizer: Tokenizer,
        tiles: Tiles,
        normalization: Normalization,
        template: str | None,
        request: LoadRequest,
    ) -> None:
        """``template``: see `chat_template`; None for a model that was not trained to chat."""
        self.net = net.eval().requires_grad_(False)
        self.tokenizer, self.device = tokenizer, request.device
        self._tiles, self._normalization, self._image_bytes = tiles, normalization, request.image_bytes
        config = net.config
        image = tokenizer.texts([config.image_token_index])[0]
        self.image_id = config.image_token_index
        self.continues = template is None
        self.answer_follows = "" if template else " "
        self._template = template or f"{image}{tokenizer.hub.bos_token or ''}{{}}"
        if image not in self._template:
            raise ValueError(f"the chat template of {request.folder} has no {image}, where the model sees the image")
        self.stack = MllamaStack(net.model.language_model)
        self.head = net.lm_head
        self.ends = ends_of(net.generation_config, config.text_config)
        self.room = min(config.text_config.max_position_embeddings, ROOM)
        around = len(templated(tokenizer, self._template, "").ids)
        layers = self.stack.cross_layers
        self.info = self._describe(request, tiles, layers=layers, max_new_tokens=LIMIT, around=around)

    def _prompt(self, task: Task, text: str) -> Prompt:
        if task == "caption" and not text.strip() and not self.continues:
            text = DESCRIBE
        return templated(self.tokenizer, self._template, text)

    @torch.no_grad()
    def encode(self, images: Sequence[Pixels]) -> list[EncodedImage]:
        """Run the vision tower over a batch of images, each as its tiles, and project its states to keys and values."""
        arranged = [self._arrangement(image) for image in images]
        pixels = torch.stack([self._split(image, *one) for image, one in zip(images, arranged, strict=True)])
        numbers = self._tiles.arrangements()
        ids = torch.tensor([[numbers.index(one) + 1] for one in arranged], device=self.device)
        most = self.net.config.vision_config.max_num_tiles
        used = [down * across for down, across in arranged]
        mask = torch.tensor([[int(tile < count) for tile in range(most)] for count in used], device=self.device)
        states = self.net.model.vision_model(pixels[:, None], ids, mask[:, None]).last_hidden_state[:, 0]
        found: list[EncodedImage] = []
        for image, own, count in zip(images, states, used, strict=True):
            keys = self.net.model.multi_modal_projector(own[:count]).flatten(0, 1)[None]
            kind = ("mllama", keys.shape[1])
            if self._too_large(keys):
                found.append(CrossImage([], image.geometry, kind, features=keys.clone()))
                continue
            # Cloned, so that an image does not keep more in memory than it needs.
            kept = [KeysValues(k.clone(), v.clone()) for k, v in self.stack.project(keys)]
            found.append(CrossImage(kept, image.geometry, kind))
        return found

    def _too_large(self, features: Tensor) -> bool:
        """Whether keys and values made of ``features`` ``[1, keys, dim]`` would take more than an image should, and
        more than those."""
        wide = sum(block.attention.wk.out_features + block.attention.wv.out_features for block in self.stack.blocks)
        needed = wide * features.shape[1] * features.itemsize
        return self._image_bytes is not None and needed > max(self._image_bytes, features.nbytes)

    def _arrangement(self, image: Pixels) -> tuple[int, int]:
        height, width = image.values.shape[:2]
        return height // self._tiles.tile, width // self._tiles.tile

    def _split(self, image: Pixels, down: int, across: int) -> Tensor:
        """``[most tiles, 3, tile, tile]``: the tiles row by row, and empty ones behind them."""
        side = self._tiles.tile
        whole = to_input([image], self._normalization, self.device, self.net.dtype)[0]
        tiles = whole.view(3, down, side, across, side).permute(1, 3, 0, 2, 4).flatten(0, 1)
        empty = tiles.new_zeros(self.net.config.vision_config.max_num_tiles - len(tiles), *tiles.shape[1:])
        return torch.cat([tiles, empty])
