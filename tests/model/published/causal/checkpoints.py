"""Tiny causal vision-language checkpoints with random weights, as published folders are, and what transformers' own
model and processor say of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from model.interface import Generation, Item, MapRequest, Output, TextOutput
from model.published.loading import load
from tests.model.published.checkpoints import image_processor

SENTENCE = "what is the color of cat dog how many are there where a in on red blue two man with it yes no"
WORDS = SENTENCE.split(" ")
QUESTION = "what is the color of the cat?"
SHAPES = ((90, 60), (48, 80), (64, 64))
"""Widths and heights of the images that families are asked about."""


def llama_tokenizer(special: list[str], **names: str) -> Any:
    """SentencePiece's BPE, as Llama's tokenizer is: spaces become marks, and a text begins with one."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ?.,:'!"
    pieces = ["<unk>", "<s>", "</s>", *special, *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *letters]
    merges = []
    for word in WORDS:
        parts = ["\u2581", *word]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            if pair not in merges:
                merges.append(pair)
                pieces.append("".join(pair))
            parts = ["".join(pair), *parts[2:]]
    ids = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    made = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(parts)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", ids["<s>"])])
    tokens = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, **tokens, additional_special_tokens=special, extra_special_tokens=names
    )


def byte_tokenizer(special: list[str], *, eos: str, bos: str | None = None, **names: str) -> Any:
    """A byte-level BPE with whole words, as Qwen's and most newer tokenizers are."""
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in [*WORDS, *(f"\u0120{word}" for word in WORDS)]:
        parts = list(word)
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            if pair not in merges:
                merges.append(pair)
                pieces.append("".join(pair))
            parts = ["".join(pair), *parts[2:]]
    ids = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    made = Tokenizer(models.BPE(ids, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokens = {"eos_token": eos} | ({"bos_token": bos} if bos else {})
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, **tokens, pad_token=eos, additional_special_tokens=special, extra_special_tokens=names
    )


def peaked(net: Any, *, seed: int = 0, sharpness: float = 3.0) -> Any:
    """Random weights with which the text model's attention is peaked and nothing is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "norm" in name.lower() and name.endswith("weight") and parameter.ndim == 1:
                zero_based = "Gemma3" in type(net).__name__ and "vision" not in name  # they multiply by 1 + weight
                centre = 0.0 if zero_based else 1.0
                parameter.copy_(centre + 0.1 * torch.randn(parameter.shape, generator=generator))
            elif parameter.ndim >= 2:
                scale = 1.0 / parameter[0].numel() ** 0.5
                sharp = any(part in name for part in ("q_proj.weight", "k_proj.weight")) and "vis" not in name
                if "embed_tokens" in name:
                    scale = 1.0
                factor = sharpness if sharp else (0.5 if "lm_head" in name else 1.0)
                parameter.copy_(factor * scale * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    net.tie_weights()
    return net.eval()


def text_sizes(**more: Any) -> dict[str, Any]:
    """A tiny text model with grouped heads; all sizes differ."""
    return {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        **more,
    }


@dataclass
class Theirs:
    """What transformers' own model says of one prompt: ``ids`` of the prompt, generated ``answer`` ids, ``logits``
    ``[answer, vocabulary]``, and ``attention`` ``[prompt + answer - 1, keys]``, the mean over heads and layers."""

    ids: list[int]
    answer: list[int]
    logits: torch.Tensor
    attention: NDArray[np.float32]
    entropy: float


Place = Callable[[NDArray[np.float32], Image.Image], NDArray[np.float32]]
"""Attention over an image's tokens ``[tokens]``, in their order, as the grid ``[rows, columns]`` that it must be."""


@dataclass
class CausalPair:
    """Our model and transformers' own, of the same folder, with transformers' own processor."""

    ours: Any
    theirs: Any
    processor: Any
    folder: Path
    place: Place

    def encode(self, *images: Image.Image) -> list[Any]:
        """The images, encoded by ours one by one."""
        return [self.ours.encode([self.ours.info.preprocess(image)])[0] for image in images]

    def ask(self, image: Any, *texts: str, maps: bool = True, **options: Any) -> TextOutput | Output:
        """What ours says of an encoded image: of one text, or the whole output of several."""
        generation = Generation(**{"max_new_tokens": 6, **options})
        item = Item(image, texts, maps=MapRequest() if maps else None, generation=generation)
        (found,) = self.ours.run("answer", [item])
        assert isinstance(found, Output), found
        return found.texts[0] if len(texts) == 1 else found

    def prompt(self, image: Image.Image, question: str) -> Any:
        """The processor's own inputs."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        bos = self.processor.tokenizer.bos_token
        special = not (bos and text.startswith(bos))
        return self.processor(images=image, text=text, return_tensors="pt", add_special_tokens=special)

    @torch.no_grad()
    def reference(self, image: Image.Image, question: str, tokens: int = 6) -> Theirs:
        """transformers' own answer, eager."""
        inputs = self.prompt(image, question)
        found = self.theirs.generate(
            **inputs,
            max_new_tokens=tokens,
            do_sample=False,
            output_attentions=True,
            output_logits=True,
            return_dict_in_generate=True,
        )
        ids = inputs["input_ids"][0].tolist()
        answer = found.sequences[0, len(ids) :].tolist()
        length = len(ids) + len(answer) - 1
        rows = np.zeros((length, length), np.float32)
        heads = []
        for step, layers in enumerate(found.attentions):
            probabilities = torch.stack([layer[0] for layer in layers]).float()  # [layers, heads, queries, keys]
            mean = probabilities.mean((0, 1)).numpy()
            start = 0 if step == 0 else len(ids) + step - 1
            rows[start : start + len(mean), : mean.shape[1]] = mean
            heads.append(probabilities[:, :, -1])
        entropy = max(float(-(p * p.clamp_min(1e-30).log()).sum(-1).mean()) / math.log(p.shape[-1]) for p in heads)
        return Theirs(ids, answer, torch.cat(found.logits), rows, entropy)


def save(folder: Path, net: Any, processor: Any) -> None:
    """A folder as a hub repository is."""
    net.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    net.generation_config.pad_token_id = processor.tokenizer.pad_token_id or processor.tokenizer.eos_token_id
    net.save_pretrained(folder)
    processor.save_pretrained(folder)


def pair_of(folder: Path, net: Any, processor: Any, place: Place) -> CausalPair:
    """Save, and load again by ours; theirs computes eagerly."""
    save(folder, net, processor)
    ours = load(folder, id=folder.name)
    theirs = type(net).from_pretrained(folder, attn_implementation="eager")
    return CausalPair(ours, theirs, processor, folder, place)


CHAT = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} "
    "{% endfor %}ASSISTANT:"
)


def llava(folder: Path) -> CausalPair:
    """LLaVA 1.5: CLIP's vision tower, Llama."""
    tokenizer = llama_tokenizer(["<image>", "<pad>"], image_token="<image>")
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "image_size": 48,
        "patch_size": 8,
        "projection_dim": 16,
    }
    text = text_sizes(model_type="llama", vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2)
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=tokenizer.convert_tokens_to_ids("<image>")
    )
    net = peaked(transformers.LlavaForConditionalGeneration(config))
    images = image_processor("CLIP", size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    processor = transformers.LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    return pair_of(folder, net, processor, lambda row, image: row.reshape(6, 6))
