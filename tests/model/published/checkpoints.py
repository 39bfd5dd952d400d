"""Checkpoints with random weights, written by `save_pretrained` as published ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from tokenizers.normalizers import BertNormalizer

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789?.,'!-"
SENTENCE = "what is the color of cat dog how many are there where this a in on red blue photo two man with it"
WORDS = SENTENCE.split(" ")
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{x}" for x in LETTERS), *WORDS]
TASKS = {
    "answer": transformers.BlipForQuestionAnswering,
    "caption": transformers.BlipForConditionalGeneration,
    "match": transformers.BlipForImageTextRetrieval,
}


def bert_tokenizer(vocabulary: list[str] = VOCABULARY) -> Any:
    """A BERT tokenizer, as BLIP's checkpoints have."""
    ids = {piece: i for i, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    from tokenizers.decoders import WordPiece

    tokenizer.decoder = WordPiece()
    return transformers.BertTokenizer(tokenizer_object=tokenizer)


def blip_config(vision_size: int = 24, **text: Any) -> Any:
    """Tiny, with sizes that differ wherever they could be mixed up; [DEC] and [ENC] behind the vocabulary."""
    size = len(VOCABULARY)
    text_config = {
        "vocab_size": size + 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 40,
        "bos_token_id": size,
        "sep_token_id": VOCABULARY.index("[SEP]"),
        "pad_token_id": 0,
        **text,
    }
    vision_config = {
        "hidden_size": vision_size,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": 64,
        "patch_size": 16,
        "initializer_range": 0.02,
    }
    return transformers.BlipConfig(text_config=text_config, vision_config=vision_config, image_text_hidden_size=16)


def peaked(net: torch.nn.Module, *, seed: int = 0) -> torch.nn.Module:
    """Fill with random weights so large that attention is peaked and nothing is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.copy_(1.0 + 0.1 * torch.randn(parameter.shape, generator=generator))
            elif parameter.ndim >= 2:
                scale = 1.0 / parameter[0].numel() ** 0.5
                sharp = "crossattention.self.query" in name or "crossattention.self.key" in name
                parameter.copy_((2.5 if sharp else 1.0) * scale * torch.randn(parameter.shape, generator=generator))
            elif parameter.ndim == 1:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    net.tie_weights()  # type: ignore[operator]
    return net.eval()


def blip_net(task: str, *, seed: int = 0, **text: Any) -> Any:
    """transformers' own tiny model for a task. For answers the library wants vision as wide as text: its decoder reads
    the questions' states with keys of the image's width."""
    sizes = blip_config(32 if task == "answer" else 24, **text)
    sizes.vision_config.num_attention_heads = 4 if task == "answer" else 3
    return peaked(TASKS[task](sizes), seed=seed)


def save_blip(folder: Path, net: Any, *, tokenizer: Any = None) -> Path:
    """A folder as a hub repository is."""
    net.save_pretrained(folder)
    (tokenizer or bert_tokenizer()).save_pretrained(folder)
    size = net.config.vision_config.image_size
    image_processor("Blip", size={"height": size, "width": size}).save_pretrained(folder)
    return folder


def image_processor(family: str, **options: Any) -> Any:
    """transformers' own image processor, on Pillow."""
    module = __import__(f"transformers.models.{family.lower()}.image_processing_pil_{family.lower()}", fromlist=["*"])
    return getattr(module, f"{family}ImageProcessorPil")(**options)


def make_image(width: int, height: int, *, seed: int = 0) -> Image.Image:
    """A smooth random image, different in every corner."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
