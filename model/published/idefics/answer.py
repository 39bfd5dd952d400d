"""Idefics (the open Flamingo): `IdeficsForVisionText2Text`.

An image becomes 64 latents by a perceiver resampler, and the latents the keys and values of every layer of gated
cross-attention. Both are made once an image; transformers projects them anew for every token, since its cross-attention
takes no cache.

A word looks at latents, so its map is composed: what it took from each latent, times where that latent looked,
`answer>latents>image`. A folder whose configuration has no resampler looks at patches itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.attribution import compose
from model.cross_attention import KeysValues
from model.interface import EncodedImage, MapRequest, MapStep, Pixels, Task
from model.published.checkpoint import Loaded
from model.published.family import to_input
from model.published.generation.config import ends_of
from model.published.idefics.resampler import Resampler
from model.published.idefics.text_stack import IdeficsStack
from model.published.prompted.cross_reader import CrossImage, CrossReader
from model.published.prompted.prompts import Prompt, templated

LIMIT = 50  # tokens of an answer where neither request nor folder says
ROOM = 2048  # positions used, however many the model has
DESCRIBE = "Describe this image."
_IMAGE, _AROUND, _END = "<image>", "<fake_token_around_image>", "<end_of_utterance>"
_MARK = f"{_AROUND}{_IMAGE}{_AROUND}"
_ASK = f"<s>Instruction: Provide an answer to the question. Use the image to answer.\n{_MARK}Question: {{}} Answer:"


class Idefics(CrossReader):
    """`IdeficsForVisionText2Text`, prompted as its documentation does: as a user where it was tuned to instructions
    (its tokenizer has ``<end_of_utterance>`` then); else with a question, or the beginning of a caption."""

    def __init__(self, loaded: Loaded) -> None:
        self.net = loaded.net.eval().requires_grad_(False)
        self.tokenizer, self.device = loaded.tokenizer, loaded.device
        self._normalization = loaded.normalization
        config, known = loaded.net.config, loaded.tokenizer.hub.get_vocab()
        missing = [token for token in (_IMAGE, _AROUND) if token not in known]
        if missing:
            raise ValueError(f"the tokenizer of {loaded.id} lacks {' and '.join(missing)}, where the model sees images")
        self.image_id = known[_IMAGE]
        self.resampler = Resampler(self.net.model.perceiver_resampler) if config.use_resampler else None
        self.stack = IdeficsStack(self.net.model)
        self._banned = [known[_IMAGE], known[_AROUND]]  # as its documentation bans them from answers
        self.ends = ends_of(self.net.generation_config, config)
        self.continues = _END not in known
        bos = loaded.tokenizer.hub.bos_token or ""
        ask, caption = _ASK, f"<s>{_MARK}{{}}"
        if _END in known:
            ask = caption = f"<s>User:{_MARK}{{}}{_END}\nAssistant:"
            self.ends = (known[_END], *(end for end in self.ends if end != known[_END]))
        templates = {"answer": ask, "caption": caption}
        self._templates = {task: template.replace("<s>", bos) for task, template in templates.items()}
        self.room = min(config.max_position_embeddings, ROOM)
        around = max(len(templated(self.tokenizer, one, "").ids) for one in self._templates.values())
        layers = self.stack.cross_layers
        self.info = self._describe(loaded, loaded.resize, layers=layers, max_new_tokens=LIMIT, around=around)

    def head(self, states: Tensor) -> Tensor:
        """``[rows, tokens, vocabulary]``: logits, without the tokens that stand for images."""
        logits: Tensor = self.net.lm_head(states)
        return logits.index_fill(-1, torch.tensor(self._banned, device=logits.device), -torch.inf)

    def _prompt(self, task: Task, text: str) -> Prompt:
        if task == "caption" and not text.strip() and not self.continues:
            text = DESCRIBE
        return templated(self.tokenizer, self._templates[task], text)

    @torch.no_grad()
    def encode(self, images: Sequence[Pixels]) -> list[EncodedImage]:
        """Run vision tower and resampler over a batch of images, and project the latents to keys and values."""
        pixels = to_input(images, self._normalization, self.device, self.net.dtype)
        states, looked = self.net.model.vision_model(pixel_values=pixels).last_hidden_state, None
        if self.resampler is not None:
            states, looked = self.resampler(states)
        layers = self.stack.project(states)
        found: list[EncodedImage] = []
        for i, image in enumerate(images):
            # Cloned, so that an image of the batch does not keep all the others in memory.
            kept = [KeysValues(k[i : i + 1].clone(), v[i : i + 1].clone()) for k, v in layers]
            latent_map = None if looked is None else looked[i].clone()
            found.append(CrossImage(kept, image.geometry, "idefics", latent_map))
        return found

    def over_image(self, rows: Tensor, images: Sequence[EncodedImage]) -> Tensor:
        """Maps over the image's keys ``[rows, tokens, keys]`` from those over the latents."""
        if self.resampler is None:
            return rows
        latents = torch.stack([image.latent_map for image in images])  # type: ignore[attr-defined]
        return compose(rows.float(), latents.float())

    def _steps(self, maps: MapRequest) -> tuple[MapStep, ...]:
        if self.resampler is None:
            return ()
        blocks = tuple(range(len(self.resampler.blocks)))
        return MapStep("answer", "latents", maps.layers or ()), MapStep("latents", "image", blocks)
