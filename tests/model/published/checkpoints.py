"""Checkpoints with random weights, written by `save_pretrained` as published ones are."""

from __future__ import annotations

import importlib
import json
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
CLIP_MERGES = ("c a", "ca t</w>", "t h", "th e</w>", "r e", "re d</w>")
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


SHARP = ("crossattention.self.query", "crossattention.self.key")


def peaked(
    net: torch.nn.Module, *, seed: int = 0, sharpness: float = 2.5, sharp: tuple[str, ...] = SHARP
) -> torch.nn.Module:
    """Fill with random weights so large that attention is peaked and nothing is zero. ``sharp``: parts of the names of
    the parameters that make queries and keys; norms behind those are scaled in their place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "norm" in name.lower() and name.endswith("weight"):
                of_queries = any(part in name for part in ("q_norm", "k_norm", "q_layer_norm", "k_layer_norm"))
                size = sharpness if of_queries else 1.0
                parameter.copy_(size * (1.0 + 0.1 * torch.randn(parameter.shape, generator=generator)))
            elif parameter.ndim >= 2:
                scale = 1.0 / parameter[0].numel() ** 0.5
                loud = sharpness if any(part in name for part in sharp) else 1.0
                parameter.copy_(loud * scale * torch.randn(parameter.shape, generator=generator))
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
    module = importlib.import_module(f"transformers.models.{family.lower()}.image_processing_pil_{family.lower()}")
    return getattr(module, f"{family}ImageProcessorPil")(**options)


def make_image(width: int, height: int, *, seed: int = 0) -> Image.Image:
    """A smooth random image, different in every corner."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def clip_tokenizer() -> Any:
    """A byte-level BPE tokenizer with a few merges, as CLIP's checkpoints have."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    merges = [tuple(pair.split(" ")) for pair in CLIP_MERGES]
    pieces = [*letters, *(f"{x}</w>" for x in letters), *("".join(pair) for pair in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    return transformers.CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges)


def clip_net(*, seed: int = 0) -> Any:
    """transformers' own tiny CLIP."""
    tokenizer = clip_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 24,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": 48,
        "patch_size": 16,
    }
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)
    return peaked(transformers.CLIPModel(config), seed=seed)


def save_clip(folder: Path, net: Any) -> Path:
    """A folder as a hub repository is."""
    net.save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    size = net.config.vision_config.image_size
    options = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    image_processor("CLIP", **options).save_pretrained(folder)
    return folder


def siglip_tokenizer(folder: Path) -> Any:
    """A SentencePiece tokenizer, as SigLIP's first checkpoints have, trained on a few words."""
    import sentencepiece

    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(f"{a} {b} {c}" for a in WORDS for b in WORDS[:6] for c in WORDS[::5]))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "spiece"),
        vocab_size=40,
        unk_id=2,
        bos_id=-1,
        eos_id=1,
        pad_id=0,
        minloglevel=2,
        add_dummy_prefix=False,
    )
    corpus.unlink()
    tokenizer = transformers.SiglipTokenizer(str(folder / "spiece.model"), model_max_length=16)
    (folder / "spiece.vocab").unlink()
    return tokenizer


def save_siglip(folder: Path, *, seed: int = 0) -> Any:
    """A folder as a hub repository is, and transformers' own tiny SigLIP in it."""
    tokenizer = siglip_tokenizer(folder)
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
    text = {**sizes, "vocab_size": 40, "max_position_embeddings": 16, "projection_size": 24}
    vision = {**sizes, "image_size": 48, "patch_size": 16}
    net = peaked(transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)), seed=seed)
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor("Siglip", size={"height": 48, "width": 48}).save_pretrained(folder)
    return net


def full_size_vocabulary(size: int = 30522) -> list[str]:
    """As many pieces as BERT's vocabulary has: the tiny one's, and made-up words."""
    filler = [f"word{i}" for i in range(size - len(VOCABULARY))]
    return [*VOCABULARY, *filler]


def published_blip(task: str, folder: Path) -> Any:
    """Random weights at the configuration of ``Salesforce/blip-*-base``: ViT-B/16 at 384 pixels, 12 text layers of 12
    heads, 30,524 tokens."""
    text = {"num_attention_heads": 12, "sep_token_id": VOCABULARY.index("[SEP]")}
    config = transformers.BlipConfig(text_config=text, vision_config={"initializer_range": 0.02})
    with torch.device("meta"):
        net = TASKS[task](config)
    return save_blip(folder, _filled(net), tokenizer=bert_tokenizer(full_size_vocabulary()))


def published_clip(folder: Path) -> Path:
    """Random weights at the configuration of ``openai/clip-vit-base-patch32``, but for the size of the vocabulary,
    which is the tokenizer's."""
    tokenizer = clip_tokenizer()
    words = {f"word{i}</w>": len(tokenizer) + i for i in range(49408 - len(tokenizer))}
    merges = [tuple(pair.split(" ")) for pair in CLIP_MERGES]
    full = transformers.CLIPTokenizer(vocab=tokenizer.get_vocab() | words, merges=merges)
    text = {name: getattr(full, name) for name in ("eos_token_id", "bos_token_id", "pad_token_id")}
    with torch.device("meta"):
        net = transformers.CLIPModel(transformers.CLIPConfig(text_config={"vocab_size": 49408, **text}))
    _filled(net).save_pretrained(folder)
    full.save_pretrained(folder)
    options = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    image_processor("CLIP", **options).save_pretrained(folder)
    return folder


def _filled(net: Any) -> Any:
    """A model from the meta device with `peaked` weights; what is no parameter is made as the library makes it."""
    filled = net.to_empty(device="cpu")
    for module in filled.modules():
        for name, buffer in module._buffers.items():
            if name == "position_ids" and buffer is not None:
                buffer.copy_(torch.arange(buffer.shape[-1]).expand(buffer.shape))
    return peaked(filled, sharpness=5.0)  # its images are smoother: alike patches need louder questions


def gemma_tokenizer(padding_side: str) -> Any:
    """What SigLIP 2's checkpoints have: Gemma's tokenizer, which keeps the case, in a folder that says to lower it."""
    from tokenizers import decoders, normalizers

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ?.,'"
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *letters]
    ids = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(ids, [], fuse_unk=True, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.add_special_tokens(special)
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    made = transformers.GemmaTokenizer(tokenizer_object=tokenizer, padding_side=padding_side, **names)
    made._tokenizer = tokenizer
    return made


def save_siglip2(folder: Path, *, padding_side: str) -> Any:
    """A folder as SigLIP 2's are that have one size of image, and transformers' own tiny model in it."""
    tokenizer = gemma_tokenizer(padding_side)
    size = tokenizer._tokenizer.get_vocab_size()
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
    text = {**sizes, "vocab_size": size, "max_position_embeddings": 32, "projection_size": 24}
    vision = {**sizes, "image_size": 48, "patch_size": 16}
    net = peaked(transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)))
    net.save_pretrained(folder)
    tokenizer._tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "GemmaTokenizer", "do_lower_case": True, "padding_side": padding_side}
    settings |= {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    image_processor("Siglip", size={"height": 48, "width": 48}).save_pretrained(folder)
    return net
