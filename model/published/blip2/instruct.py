"""InstructBLIP's side of `QueryWriter`: the Q-Former runs for each question, over an image's keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch

from model.cross_attention import KeysValues
from model.family import TokenizedText
from model.interface import EncodedImage, Item, ItemError, Pixels, Task
from model.published.blip2.base import ProjectedImage, Queried, QueryWriter, sources_of
from model.published.checkpoint import Loaded
from model.published.prompted.prompts import Prompt, templated
from model.published.tokenizer import Tokenizer, pad

_NO_INSTRUCTION = "A short image description:"  # for captions, as its authors ask for them


class InstructBlip(QueryWriter):
    """`InstructBlipForConditionalGeneration`: the question, or what is asked of a caption, is the instruction."""

    templates: Mapping[Task, str] = MappingProxyType({"answer": "{}", "caption": "{}"})
    continues = False

    def __init__(self, loaded: Loaded, qformer_tokenizer: Tokenizer) -> None:
        """``qformer_tokenizer``: the Q-Former's own, BERT's."""
        super().__init__(loaded)
        self.answer_follows = "" if self.language.has_encoder else " "
        self._qformer_tokenizer = qformer_tokenizer

    @torch.no_grad()
    def encode(self, images: Sequence[Pixels]) -> list[EncodedImage]:
        """Run the vision tower over a batch of images, and project its states to the Q-Former's keys and values."""
        layers = self.qformer.project(self._states(images))
        # Cloned, so that an image of the batch does not keep all the others in memory.
        return [
            ProjectedImage([KeysValues(k[i : i + 1].clone(), v[i : i + 1].clone()) for k, v in layers], image.geometry)
            for i, image in enumerate(images)
        ]

    def _prompt(self, task: Task, text: str) -> Prompt:
        return templated(self.tokenizer, self.templates[task], text if text.strip() else _NO_INSTRUCTION)

    def _check_own(self, task: Task, item: Item, texts: Sequence[TokenizedText]) -> ItemError | None:
        """The Q-Former has positions, and a tokenizer, of its own."""
        limit = self.net.config.qformer_config.max_position_embeddings
        for index, text in enumerate(item.texts):
            tokens = len(self._qformer_tokenizer(text).ids)
            if tokens > limit:
                detail: dict[str, object] = {"tokens": tokens, "limit": limit}
                message = "The text has more tokens than the model's Q-Former takes."
                return ItemError("question_too_long", message, index, detail)
        return None

    def _query(self, prompts: Sequence[Prompt], images: Sequence[EncodedImage], *, need_map: bool) -> Queried:
        read = [self._qformer_tokenizer(prompt.whole).ids for prompt in prompts]
        ids, mask = pad(read, self._qformer_tokenizer.hub.pad_token_id or 0, self.device)
        queries = self.net.query_tokens.expand(len(ids), -1, -1)
        if mask is not None:
            mask = torch.cat([mask.new_ones(queries.shape[:2]), mask], 1)
        embedded = self.net.qformer.embeddings(input_ids=ids, query_embeds=queries)
        states, maps = self.qformer(embedded, sources_of(images), mask=mask, need_map=need_map)
        return Queried(self._project(states), maps)
