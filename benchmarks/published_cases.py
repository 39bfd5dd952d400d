"""Models that write, for `benchmarks.published`: random weights, and what transformers' own `generate` is given.

SmolVLM 256M and LLaVA-OneVision 0.5B have their published sizes. Those of the other families do not fit a small
machine, so each is built in the same shape at a size that does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from model.interface import Pixels
from model.published.family import to_input
from tests.model.published import checkpoints
from tests.model.published.causal import folders
from tests.model.published.writers import byte_tokenizer

MARKS = ("<fake_token_around_image>", "<image>")


@dataclass(frozen=True, slots=True)
class Case:
    """``save`` writes the folder; ``inputs`` are `generate`'s, of our model, our pixels and a question; ``kind`` is
    transformers'. ``image``: the width and height of one to ask about."""

    what: str
    kind: str
    save: Callable[[Path], None]
    inputs: Callable[[Any, Pixels, str], dict[str, Any]]
    image: tuple[int, int] = (640, 480)

    def never_end(self, ours: Any) -> None:
        """Let our model take no token for the end of its answer."""
        ours.ends = ()
        if hasattr(ours, "stack"):
            ours.stack.end_ids = frozenset()


def _saved(folder: Path, kind: str, config: Any, tokenizer: Any, processor: Any) -> None:
    torch.manual_seed(0)
    getattr(transformers, kind)(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)


def _ids(ours: Any, question: str, *before: int) -> torch.Tensor:
    return torch.tensor([[*before, *ours._prompt("answer", question).ids]], device=ours.device)


def _pixels(ours: Any, pixels: Pixels) -> torch.Tensor:
    return to_input([pixels], ours._normalization, ours.device, ours.net.dtype)


def _save_blip2(folder: Path) -> None:
    tokenizer = byte_tokenizer(before="<s>")
    text = transformers.OPTConfig(pad_token_id=0, eos_token_id=1, bos_token_id=2)  # 125M: the defaults
    vision = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6}
    config = transformers.Blip2Config(vision_config=vision, text_config=text, image_token_index=50000)
    processor = checkpoints.image_processor("Blip", size={"height": 224, "width": 224})
    _saved(folder, "Blip2ForConditionalGeneration", config, tokenizer, processor)


def _ask_blip2(ours: Any, pixels: Pixels, question: str) -> dict[str, Any]:
    image = [ours.net.config.image_token_index] * ours.net.config.num_query_tokens
    return {"pixel_values": _pixels(ours, pixels), "input_ids": _ids(ours, question, *image)}


def _save_mllama(folder: Path) -> None:
    tokenizer = byte_tokenizer(before="<s>", more=["<|image|>"])
    text = {
        "vocab_size": 32000,
        "hidden_size": 768,
        "intermediate_size": 2688,
        "num_hidden_layers": 15,
        "num_attention_heads": 12,
        "num_key_value_heads": 3,
        "cross_attention_layers": [3, 8, 13],
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    vision = {
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 12,
        "num_global_layers": 2,
        "attention_heads": 6,
        "image_size": 224,
        "intermediate_layers_indices": [1, 3, 5, 8, 11],
        "vision_output_dim": 2304,
    }
    image = tokenizer.convert_tokens_to_ids("<|image|>")
    config = transformers.MllamaConfig(vision_config=vision, text_config=text, image_token_index=image)
    processor = checkpoints.image_processor("Mllama", size={"height": 224, "width": 224}, max_image_tiles=4)
    _saved(folder, "MllamaForConditionalGeneration", config, tokenizer, processor)


def _ask_mllama(ours: Any, pixels: Pixels, question: str) -> dict[str, Any]:
    ids = _ids(ours, question)
    down, across = ours._arrangement(pixels)
    used = (torch.arange(4) < down * across).long()
    return {
        "pixel_values": ours._split(pixels, down, across)[None, None],
        "aspect_ratio_ids": torch.tensor([[ours._tiles.arrangements().index((down, across)) + 1]]),
        "aspect_ratio_mask": used[None, None],
        "cross_attention_mask": used.expand(1, ids.shape[1], 1, 4).clone(),
        "input_ids": ids,
    }


def _save_idefics(folder: Path) -> None:
    tokenizer = byte_tokenizer(before="<s>", more=MARKS)
    config = transformers.IdeficsConfig(
        vocab_size=len(tokenizer) - len(MARKS),
        additional_vocab_size=len(MARKS),
        hidden_size=768,
        intermediate_size=2064,
        num_hidden_layers=12,
        num_attention_heads=12,
        cross_layer_interval=4,
        qk_layer_norms=True,
        use_resampler=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        vision_config={"embed_dim": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6},
        perceiver_config={"use_resampler": True, "resampler_depth": 6, "resampler_n_heads": 16},
    )
    processor = checkpoints.image_processor("Idefics", image_size=224)
    _saved(folder, "IdeficsForVisionText2Text", config, tokenizer, processor)


def _ask_idefics(ours: Any, pixels: Pixels, question: str) -> dict[str, Any]:
    fed = _ids(ours, question)
    seen = (fed == ours.image_id).cumsum(1)[..., None]
    mask = torch.ones_like(fed)
    return {
        "pixel_values": _pixels(ours, pixels)[:, None],
        "input_ids": fed,
        "attention_mask": mask,
        "image_attention_mask": seen,
        "bad_words_ids": [[token] for token in ours._banned],
    }


def _ask_causal(ours: Any, pixels: Pixels, question: str) -> dict[str, Any]:
    prefix = ours.prompt.prefix([ours.images.expand(pixels).text])
    ids = torch.tensor([[*prefix, *ours.tokenize(question).ids]], device=ours.device)
    more = ours.images.context(ids, [pixels])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **ours.images.inputs(pixels), **more}


CASES = {
    "smolvlm": Case(
        "SmolVLM 256M at its published size",
        "SmolVLMForConditionalGeneration",
        partial(folders.smolvlm_256m, longest=1024),
        _ask_causal,
    ),
    "llava-onevision": Case(
        "LLaVA-OneVision 0.5B at its published size",
        "LlavaOnevisionForConditionalGeneration",
        folders.llava_onevision_0_5b,
        _ask_causal,
        (384, 384),
    ),
    "blip-2": Case("BLIP-2 with ViT-S and OPT 125M", "Blip2ForConditionalGeneration", _save_blip2, _ask_blip2),
    "mllama": Case(
        "Llama 3.2 Vision in small: 15 layers of 768, 3 of them looking at 4 tiles of 224 pixels",
        "MllamaForConditionalGeneration",
        _save_mllama,
        _ask_mllama,
    ),
    "idefics": Case(
        "Idefics in small: 12 layers of 768, looking before every fourth at 64 latents of a ViT-S",
        "IdeficsForVisionText2Text",
        _save_idefics,
        _ask_idefics,
    ),
}
