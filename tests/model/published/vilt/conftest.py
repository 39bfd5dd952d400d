"""A tiny ViLT, ours and transformers' own, of the same folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from model.published.loading import load
from tests.model.published import checkpoints

ANSWERS = ("no", "yes", "cat", "a red dog", "2", "blue", "Paris")


@dataclass
class ViltPair:
    """Our model and transformers' own, of the same weights and folder."""

    ours: Any
    theirs: Any
    folder: Path
    short: int = 48
    divisor: int = 16

    def encode(self, *images: Image.Image) -> list[Any]:
        """The images, encoded by ours one by one."""
        return [self.ours.encode([self.ours.info.preprocess(image)])[0] for image in images]

    def inputs(self, images: list[Image.Image], texts: list[str]) -> dict[str, Any]:
        """What transformers' own processor makes of them, padded."""
        options = {"size": {"shortest_edge": self.short}, "size_divisor": self.divisor}
        processor = checkpoints.image_processor("Vilt", **options)
        words = self.ours.tokenizer.hub(texts, padding=True, return_tensors="pt")
        return {**words, **processor(images, return_tensors="pt")}

    @torch.no_grad()
    def ask(self, image: Image.Image, text: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """transformers' logits ``[answers]``, and each layer's attention ``[heads, keys, keys]``: question, class
        token, patches row by row. It shuffles the patches; the order that a seed gives is put right here."""
        inputs = self.inputs([image], [text])
        torch.manual_seed(3)
        _, _, (places, (_, columns)) = self.theirs.vilt.embeddings.visual_embed(
            inputs["pixel_values"], inputs["pixel_mask"], max_image_length=-1
        )
        order = (places[0, :, 0] * columns + places[0, :, 1]).argsort()
        before = inputs["input_ids"].shape[1] + 1
        order = torch.cat([torch.arange(before), before + order])
        torch.manual_seed(3)
        result = self.theirs(**inputs, output_attentions=True)
        return result.logits[0], [one[0][:, order][:, :, order] for one in result.attentions]


def vilt_net(*, seed: int = 0, **options: Any) -> Any:
    """transformers' own tiny ViLT. A grid of 4 by 4 positions, stretched to the image's."""
    config = transformers.ViltConfig(
        vocab_size=len(checkpoints.VOCABULARY),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=24,
        image_size=64,
        patch_size=16,
        max_image_length=-1,
        id2label=dict(enumerate(ANSWERS)),
        label2id={answer: i for i, answer in enumerate(ANSWERS)},
        **options,
    )
    net = transformers.ViltForQuestionAnswering(config)
    return checkpoints.peaked(net, seed=seed, sharpness=3.0, sharp=("attention.query", "attention.key"))


def save_vilt(folder: Path, net: Any) -> Path:
    """A folder as a hub repository is."""
    net.save_pretrained(folder)
    checkpoints.bert_tokenizer().save_pretrained(folder)
    checkpoints.image_processor("Vilt", size={"shortest_edge": 48}, size_divisor=16).save_pretrained(folder)
    return folder


def published_vilt(folder: Path) -> Path:
    """Random weights at the configuration of ``dandelin/vilt-b32-finetuned-vqa``."""
    answers = {i: f"answer{i}" for i in range(3129)}
    config = transformers.ViltConfig(id2label=answers, label2id={answer: i for i, answer in answers.items()})
    net = transformers.ViltForQuestionAnswering(config)
    checkpoints.peaked(net, sharpness=4.0, sharp=("attention.query", "attention.key")).save_pretrained(folder)
    checkpoints.bert_tokenizer(checkpoints.full_size_vocabulary()).save_pretrained(folder)
    checkpoints.image_processor("Vilt", size={"shortest_edge": 384}, size_divisor=32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vilt(tmp_path_factory: pytest.TempPathFactory) -> ViltPair:
    """A tiny ViLT for questions."""
    folder = save_vilt(tmp_path_factory.mktemp("vilt"), net := vilt_net())
    return ViltPair(load(folder, id="vilt"), net, folder)
