"""A causal vision-language model with random weights as ours and as transformers' own, of one folder; and what its
folder is made of: tokenizers, weights, processors."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers.processing_utils import ProcessorMixin

from model.interface import Generation, Item, MapRequest, Output, TextOutput, among, together
from model.published.loading import load

SENTENCE = "what is the color of cat dog how many are there where a in on red blue two man with it yes no"
WORDS = SENTENCE.split(" ")
QUESTION = "what is the color of the cat?"
SHAPES = ((90, 60), (48, 80), (64, 64))
"""Widths and heights of the images that families are asked about."""


def merges_of(words: list[list[str]]) -> list[tuple[str, str]]:
    """The pairs that make each of the words, of its letters from the first on, one token."""
    merges: list[tuple[str, str]] = []
    for parts in words:
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            if pair not in merges:
                merges.append(pair)
            parts = ["".join(pair), *parts[2:]]
    return merges


def llama_tokenizer(special: list[str], **names: str) -> Any:
    """SentencePiece's BPE, as Llama's tokenizer is: spaces become marks, and a text begins with one."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ?.,:'!"
    pieces = ["<unk>", "<s>", "</s>", *special, *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *letters]
    merges = merges_of([["\u2581", *word] for word in WORDS])
    pieces += ["".join(pair) for pair in merges]
    ids = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    made = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(parts)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", ids["<s>"])])
    made.add_special_tokens(["<unk>", "<s>", "</s>", *special])
    tokens = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **tokens, extra_special_tokens=names)


def byte_tokenizer(special: list[str], *, eos: str, bos: str | None = None, size: int = 0, **names: str) -> Any:
    """A byte-level BPE with whole words, as Qwen's and most newer tokenizers are. Up to ``size`` there are words that
    no text is made of, but that a model may write."""
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = merges_of([list(word) for word in (*WORDS, *(f"\u0120{word}" for word in WORDS))])
    pieces += ["".join(pair) for pair in merges]
    ids = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    ids |= {f"\u0120w{i}": i for i in range(len(ids), size)}
    made = Tokenizer(models.BPE(ids, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(special)
    tokens = {"eos_token": eos} | ({"bos_token": bos} if bos else {})
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, **tokens, pad_token=eos, extra_special_tokens=names
    )


def peaked(net: Any, *, seed: int = 0, sharpness: float = 3.0) -> Any:
    """Random weights with which the text model's attention is peaked and nothing is zero."""
    generator = torch.Generator().manual_seed(seed)
    tied = net.get_output_embeddings().weight is net.get_input_embeddings().weight
    from_zero = "Gemma3" in type(net).__name__  # its text norms multiply by 1 + weight
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            text = "vis" not in name
            if "norm" in name.lower() and name.endswith("weight") and parameter.ndim == 1:
                centre = sharpness**0.6 if text and ("q_norm" in name or "k_norm" in name) else 1.0
                parameter.copy_(centre - from_zero * text + 0.1 * noise)
            elif parameter.ndim >= 2:
                scale = 1.0 / parameter[0].numel() ** 0.5
                if text and name.endswith(("q_proj.weight", "k_proj.weight")):
                    scale *= sharpness
                elif "lm_head" in name:
                    scale *= 0.5
                elif "embed_tokens" in name:
                    scale = 0.07 if tied else 1.0
                parameter.copy_(scale * noise)
            else:
                parameter.copy_(0.2 * noise)
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


def image_processor(family: str, **options: Any) -> Any:
    """transformers' own image processor, on Pillow."""
    folder = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in family).lstrip("_")
    folder = {"c_l_i_p": "clip", "qwen2_v_l": "qwen2_vl"}.get(folder, folder)
    module = importlib.import_module(f"transformers.models.{folder}.image_processing_pil_{folder}")
    return getattr(module, f"{family}ImageProcessorPil")(**options)


def without_videos(kind: Any, images: Any, tokenizer: Any, **options: Any) -> Any:
    """transformers' own processor, without its part for videos, which needs torchvision."""
    with patch.object(ProcessorMixin, "check_argument_for_proper_class", lambda *_: None):
        return kind(images, tokenizer, None, **options)


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
    options: dict[str, Any] = field(default_factory=dict)
    """What the processor takes with every call."""

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

    def together(self, *images: Image.Image) -> Any:
        """The images that are asked about together, encoded by ours as one."""
        preprocess = among(self.ours.info.preprocess)
        return self.ours.encode([together([preprocess(image) for image in images])])[0]

    def prompt(self, image: Image.Image | Sequence[Image.Image], question: str) -> Any:
        """The processor's own inputs, of one image or several."""
        images = [image] if isinstance(image, Image.Image) else list(image)
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
        text = "<image>" * len(images) + question
        if self.processor.chat_template is not None:
            text = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
        bos = self.processor.tokenizer.bos_token
        special = not (bos and text.startswith(bos))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # PaliGemma's makes an array of a tensor
            options = {"return_tensors": "pt", "add_special_tokens": special, **self.options}
            return self.processor(images=[images], text=text, **options)

    @torch.no_grad()
    def reference(self, image: Image.Image | Sequence[Image.Image], question: str, tokens: int = 6) -> Theirs:
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
            start = 0 if step == 0 else len(ids) + step - 1
            end = start + layers[0].shape[2]
            # A layer that looks back no further than a window has forgotten the keys before it.
            whole = [torch.nn.functional.pad(layer[0], (end - layer.shape[-1], 0)) for layer in layers]
            probabilities = torch.stack(whole).float()  # [layers, heads, queries, keys]
            mean = probabilities.mean((0, 1)).numpy()
            rows[start : start + len(mean), : mean.shape[1]] = mean
            heads.append(probabilities[:, :, -1])
        entropy = max(float(-(p * p.clamp_min(1e-30).log()).sum(-1).mean()) / math.log(p.shape[-1]) for p in heads)
        return Theirs(ids, answer, torch.cat(found.logits), rows, entropy)


def save(folder: Path, net: Any, processor: Any) -> None:
    """A folder as a hub repository is."""
    net.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    net.generation_config.pad_token_id = processor.tokenizer.pad_token_id or processor.tokenizer.eos_token_id
    net.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    if processor.chat_template is not None:
        (folder / "chat_template.jinja").write_text(processor.chat_template)


def pair_of(folder: Path, net: Any, processor: Any, place: Place) -> CausalPair:
    """Save, and load again by ours; theirs computes eagerly."""
    save(folder, net, processor)
    ours = load(folder, id=folder.name)
    theirs = type(net).from_pretrained(folder, attn_implementation="eager")
    return CausalPair(ours, theirs, processor, folder, place)
