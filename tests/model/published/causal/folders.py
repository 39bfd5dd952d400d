"""Folders of two published checkpoints at their sizes, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.model.published.causal import pairs, sizes
from tests.model.published.causal.checkpoints import QWEN_CHAT


def filled(net: Any) -> Any:
    """A model from the meta device with random weights. What is no weight is not saved, and made as it is loaded."""
    return pairs.peaked(net.to_empty(device="cpu"))


def smolvlm_256m(folder: Path, *, longest: int = 2048) -> None:
    """The folder of SmolVLM 256M; images get ``longest`` pixels at their longer side, and are cut into tiles of 512."""
    special = ["<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>"]
    special += [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    names = {"eos": "<end_of_utterance>", "bos": "<|im_start|>", "image_token": "<image>"}
    tokenizer = pairs.byte_tokenizer(special, size=49280, **names)
    with torch.device("meta"):
        net = sizes.smolvlm_256m(
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.bos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    tiles = {"size": {"longest_edge": longest}, "max_image_size": {"longest_edge": 512}}
    images = pairs.image_processor("Idefics3", **tiles)
    chat = QWEN_CHAT.replace("IMAGE", "<image>").replace("<|im_end|>", "<end_of_utterance>")
    keep(folder, filled(net), tokenizer, images, chat)


def llava_onevision_0_5b(folder: Path) -> None:
    """The folder of LLaVA-OneVision 0.5B."""
    special = ["<|im_start|>", "<|im_end|>", "<image>", "<video>"]
    names = {"eos": "<|im_end|>", "image_token": "<image>", "video_token": "<video>"}
    tokenizer = pairs.byte_tokenizer(special, size=152000, **names)
    with torch.device("meta"):
        net = sizes.llava_onevision_0_5b(
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        )
    images = pairs.image_processor("LlavaOnevision")
    keep(folder, filled(net), tokenizer, images, QWEN_CHAT.replace("IMAGE", "<image>\n"))


def keep(folder: Path, net: Any, tokenizer: Any, images: Any, chat: str) -> None:
    """Save all parts of a folder."""
    net.generation_config.eos_token_id = net.generation_config.pad_token_id = tokenizer.eos_token_id
    net.generation_config.max_new_tokens = 12
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(chat)
