"""Tiny checkpoints, made once, and what both sides say of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from model.interface import EncodedImage
from model.published.loading import load
from model.published.preprocess import read_processor
from tests.model.published import checkpoints


@dataclass
class Pair:
    """Our model and transformers' own, of the same weights and folder."""

    ours: Any
    theirs: Any
    folder: Path

    def encode(self, *images: Image.Image) -> list[EncodedImage]:
        """The images, encoded by ours one by one."""
        return [self.ours.encode([self.ours.info.preprocess(image)])[0] for image in images]

    def pixels(self, *images: Image.Image) -> torch.Tensor:
        """The images as transformers' own processor makes them."""
        vision = self.theirs.config.vision_config
        size = {"height": vision.image_size, "width": vision.image_size}
        processor = checkpoints.image_processor("Blip", size=size)
        values: torch.Tensor = processor(list(images), return_tensors="pt")["pixel_values"]
        return values

    def ids(self, *texts: str, enc: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """Padded ids and mask from the checkpoint's own tokenizer; ``enc`` puts [ENC] first, as in training."""
        encoded = self.ours.tokenizer.hub(list(texts), padding=True, return_tensors="pt")
        ids = encoded["input_ids"]
        if enc:
            ids[:, 0] = self.theirs.config.text_config.bos_token_id + 1
        return ids, encoded["attention_mask"]

    def reload(self, faults: Any) -> Any:
        """Ours once more, with some of the library's faults."""
        from model.published.checkpoint import Loaded

        net = checkpoints.TASKS[self.ours.task].from_pretrained(self.folder)
        resize, normalization = read_processor(self.folder, 64, 16)
        loaded = Loaded(net, self.ours.tokenizer, resize, normalization, "x", "y", torch.device("cpu"), self.folder)
        return type(self.ours)(loaded, faults=faults)


def make_pair(folder: Path, task: str, *, end: float = 0.0, seed: int = 0) -> Pair:
    """``end`` raises the end token's logit, so that sequences end."""
    net = checkpoints.blip_net(task, seed=seed)
    if task != "match":
        with torch.no_grad():
            net.text_decoder.cls.predictions.bias[net.config.text_config.sep_token_id] += end
    checkpoints.save_blip(folder, net)
    return Pair(load(folder, id=task), net, folder)


@pytest.fixture(scope="session")
def answer(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A tiny BLIP for questions."""
    return make_pair(tmp_path_factory.mktemp("answer"), "answer", end=2.0)


@pytest.fixture(scope="session")
def caption(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A tiny BLIP for captions."""
    return make_pair(tmp_path_factory.mktemp("caption"), "caption", end=2.0)


@pytest.fixture(scope="session")
def match(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A tiny BLIP for matching."""
    return make_pair(tmp_path_factory.mktemp("match"), "match")


@dataclass
class DualPair:
    """Our dual encoder and transformers' own, of the same weights and folder."""

    ours: Any
    theirs: Any
    processor: Any
    ids: Any

    def encode(self, image: Image.Image) -> Any:
        """The image, encoded by ours."""
        return self.ours.encode([self.ours.info.preprocess(image)])[0]


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> DualPair:
    """A tiny CLIP."""
    folder = tmp_path_factory.mktemp("clip")
    net = checkpoints.clip_net()
    checkpoints.save_clip(folder, net)
    ours = load(folder, id="clip")
    options = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
    processor = checkpoints.image_processor("CLIP", **options)
    tokenizer = checkpoints.clip_tokenizer()
    return DualPair(ours, net, processor, lambda texts: dict(tokenizer(texts, padding=True, return_tensors="pt")))


@pytest.fixture(scope="session")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> DualPair:
    """A tiny SigLIP with a SentencePiece tokenizer."""
    folder = tmp_path_factory.mktemp("siglip")
    net = checkpoints.save_siglip(folder)
    ours = load(folder, id="siglip")
    processor = checkpoints.image_processor("Siglip", size={"height": 48, "width": 48})

    def ids(texts: list[str]) -> dict[str, Any]:
        encoded = ours.tokenizer.hub(texts, padding="max_length", return_tensors="pt")
        return {"input_ids": encoded["input_ids"]}

    return DualPair(ours, net, processor, ids)
