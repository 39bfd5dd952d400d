"""Configurations of published checkpoints, as far as they decide sizes. Nothing was downloaded."""

from __future__ import annotations

from typing import Any

import transformers

SO400M = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
    "vision_use_head": False,
}
CLIP_IN_SMALL = {
    "model_type": "clip_vision_model",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 48,
    "patch_size": 8,
    "projection_dim": 16,
}


def _text(
    hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocabulary: int, **more: Any
) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        **more,
    }


def llava_1_5_7b() -> Any:
    """``llava-hf/llava-1.5-7b-hf``."""
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
    }
    text = _text(4096, 11008, 32, 32, 32, 32064, model_type="llama")
    return transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_id=32000)
    )


def llava_in_small(vocabulary: int) -> Any:
    """LLaVA 1.5 in the same shape, small enough for any machine."""
    vision = CLIP_IN_SMALL
    text = _text(48, 64, 3, 6, 6, vocabulary, model_type="llama")
    return transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(vision_config=vision, text_config=text))


def llava_onevision_0_5b(**ids: int) -> Any:
    """``llava-hf/llava-onevision-qwen2-0.5b-ov-hf``."""
    vision = SO400M | {"num_hidden_layers": 26, "image_size": 384}
    text = _text(896, 4864, 24, 14, 2, 152000, model_type="qwen2", tie_word_embeddings=True)
    config = transformers.LlavaOnevisionConfig(vision_config=vision, text_config=text, tie_word_embeddings=True, **ids)
    return transformers.LlavaOnevisionForConditionalGeneration(config)


def smolvlm_256m(**ids: int) -> Any:
    """``HuggingFaceTB/SmolVLM-256M-Instruct``."""
    vision = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 512,
        "patch_size": 16,
    }
    text = _text(576, 1536, 30, 9, 3, 49280, model_type="llama", head_dim=64, max_position_embeddings=8192)
    text |= {name: value for name, value in ids.items() if name != "image_token_id"}
    image_id = ids.get("image_token_id", 49190)
    config = transformers.SmolVLMConfig(vision_config=vision, text_config=text, scale_factor=4, image_token_id=image_id)
    return transformers.SmolVLMForConditionalGeneration(config)


def idefics3_8b() -> Any:
    """``HuggingFaceM4/Idefics3-8B-Llama3``."""
    vision = {k: v for k, v in SO400M.items() if k not in ("model_type", "vision_use_head")} | {"image_size": 364}
    text = _text(4096, 14336, 32, 32, 8, 128259, model_type="llama")
    config = transformers.Idefics3Config(vision_config=vision, text_config=text, scale_factor=2)
    return transformers.Idefics3ForConditionalGeneration(config)


def qwen2_5_vl_3b() -> Any:
    """``Qwen/Qwen2.5-VL-3B-Instruct``."""
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 2048}
    text = _text(2048, 11008, 36, 16, 2, 151936, tie_word_embeddings=True)
    config = transformers.Qwen2_5_VLConfig(vision_config=vision, text_config=text, tie_word_embeddings=True)
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def qwen3_vl_2b() -> Any:
    """``Qwen/Qwen3-VL-2B-Instruct``."""
    vision = {
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "out_hidden_size": 2048,
        "deepstack_visual_indexes": [5, 11, 17],
    }
    text = _text(2048, 6144, 28, 16, 8, 151936, head_dim=128, tie_word_embeddings=True)
    config = transformers.Qwen3VLConfig(vision_config=vision, text_config=text, tie_word_embeddings=True)
    return transformers.Qwen3VLForConditionalGeneration(config)


def internvl3_1b() -> Any:
    """``OpenGVLab/InternVL3-1B-hf``."""
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    text = _text(896, 4864, 24, 14, 2, 151674, model_type="qwen2", tie_word_embeddings=True)
    config = transformers.InternVLConfig(vision_config=vision, text_config=text, tie_word_embeddings=True)
    return transformers.InternVLForConditionalGeneration(config)


def gemma_3_4b() -> Any:
    """``google/gemma-3-4b-it``."""
    text = _text(2560, 10240, 34, 8, 4, 262208, head_dim=256, sliding_window=1024)
    config = transformers.Gemma3Config(vision_config=SO400M | {"image_size": 896}, text_config=text)
    return transformers.Gemma3ForConditionalGeneration(config)


def paligemma_3b() -> Any:
    """``google/paligemma-3b-mix-224``."""
    text = _text(2048, 16384, 18, 8, 1, 257216, model_type="gemma", head_dim=256)
    vision = SO400M | {"image_size": 224, "projection_dim": 2048, "num_image_tokens": 256}
    config = transformers.PaliGemmaConfig(vision_config=vision, text_config=text, projection_dim=2048)
    return transformers.PaliGemmaForConditionalGeneration(config)


SIZES = {  # as docs/models.md names them -> what builds one, and how many tokens an image has there
    "LLaVA 1.5 7B": (llava_1_5_7b, 576),
    "LLaVA-OneVision 0.5B": (llava_onevision_0_5b, 729 + 2 * 27 * (2 * 27 + 1)),
    "SmolVLM 256M": (smolvlm_256m, 13 * 64),
    "Idefics 3 8B": (idefics3_8b, 13 * 169),
    "Qwen2.5-VL 3B": (qwen2_5_vl_3b, 27 * 36),
    "Qwen3-VL 2B": (qwen3_vl_2b, 24 * 32),
    "InternVL 3 1B": (internvl3_1b, 13 * 256),
    "Gemma 3 4B": (gemma_3_4b, 256),
    "PaliGemma 3B": (paligemma_3b, 256),
}
