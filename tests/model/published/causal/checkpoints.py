"""Tiny causal vision-language checkpoints with random weights, as published folders are, of every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import transformers
from numpy.typing import NDArray
from PIL import Image

from tests.model.published.causal.pairs import (
    CausalPair,
    Place,
    byte_tokenizer,
    image_processor,
    llama_tokenizer,
    pair_of,
    peaked,
    text_sizes,
    without_videos,
)
from tests.model.published.causal.sizes import CLIP_IN_SMALL

CHAT = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} "
    "{% endfor %}ASSISTANT:"
)


def llava(folder: Path) -> CausalPair:
    """LLaVA 1.5: CLIP's vision tower, Llama."""
    tokenizer = llama_tokenizer(["<image>", "<pad>"], image_token="<image>")
    text = text_sizes(model_type="llama", vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2)
    config = transformers.LlavaConfig(
        vision_config=CLIP_IN_SMALL, text_config=text, image_token_id=tokenizer.convert_tokens_to_ids("<image>")
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


SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
    "vision_use_head": False,
}
QWEN_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def spread(grid: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """A coarse grid's shares over the cells of a finer one of a multiple of its size, each shared out evenly."""
    down, across = rows // grid.shape[0], columns // grid.shape[1]
    return np.kron(grid, np.ones((down, across), np.float32)) / (down * across)


def tiles_to_grid(row: NDArray[np.float32], rows: int, columns: int, side: int) -> NDArray[np.float32]:
    """Tiles one after the other, put in their places."""
    tiles = row.reshape(rows, columns, side, side)
    return np.block([[tiles[r, c] for c in range(columns)] for r in range(rows)])


def idefics3(folder: Path, *, small: bool = False) -> CausalPair:
    """Idefics 3, or SmolVLM, which differs in names alone: tiles of 32 pixels, each 2 x 2 tokens."""
    special = ["<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>"]
    special += [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    tokenizer = byte_tokenizer(special, eos="<end_of_utterance>", bos="<|im_start|>", image_token="<image>")
    names = {"image_token_id": tokenizer.convert_tokens_to_ids("<image>"), "scale_factor": 2}
    vision = {k: v for k, v in SIGLIP.items() if k not in ("model_type", "vision_use_head")}
    text = text_sizes(model_type="llama", vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    text |= {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.eos_token_id}
    kind = "SmolVLM" if small else "Idefics3"
    config = getattr(transformers, f"{kind}Config")(vision_config=vision, text_config=text, **names)
    net = peaked(getattr(transformers, f"{kind}ForConditionalGeneration")(config))
    images = image_processor("Idefics3", size={"longest_edge": 96}, max_image_size={"longest_edge": 32})
    chat = (
        "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
        "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
        "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
        "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    )
    processor = transformers.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=chat)

    def place(row: NDArray[np.float32], image: Image.Image) -> NDArray[np.float32]:
        rows, columns = (3, 2) if image.height > image.width else ((2, 3) if image.width > image.height else (3, 3))
        tiles = tiles_to_grid(row[: rows * columns * 4], rows, columns, 2)
        return tiles + spread(row[rows * columns * 4 :].reshape(2, 2), rows * 2, columns * 2)

    return pair_of(folder, net, processor, place)


def smolvlm(folder: Path) -> CausalPair:
    """SmolVLM."""
    return idefics3(folder, small=True)


QWEN_VISION: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_heads": 3,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "out_hidden_size": 48,
}


def qwen_tokenizer() -> Any:
    """Qwen's special tokens."""
    special = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    return byte_tokenizer(special, eos="<|im_end|>", image_token="<|image_pad|>", video_token="<|video_pad|>")


def qwen_ids(tokenizer: Any) -> dict[str, int]:
    """The ids that Qwen's configurations name."""
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
    for name in ("start", "end"):
        ids[f"vision_{name}_token_id"] = tokenizer.convert_tokens_to_ids(f"<|vision_{name}|>")
    return ids


def qwen2_5_vl(folder: Path) -> CausalPair:
    """Qwen2.5-VL: patches of 4 pixels, 2 x 2 of them a token; windows of 4 x 4 patches."""
    tokenizer = qwen_tokenizer()
    vision = QWEN_VISION | {"depth": 2, "window_size": 16, "fullatt_block_indexes": [1]}
    text = text_sizes(vocab_size=len(tokenizer), rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2]})
    text |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = transformers.Qwen2_5_VLConfig(vision_config=vision, text_config=text, **qwen_ids(tokenizer))
    net = peaked(transformers.Qwen2_5_VLForConditionalGeneration(config))
    images = image_processor("Qwen2VL", patch_size=4, merge_size=2, size={"shortest_edge": 256, "longest_edge": 2400})
    chat = QWEN_CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    processor = without_videos(transformers.Qwen2_5_VLProcessor, images, tokenizer, chat_template=chat)
    return pair_of(folder, net, processor, qwen_place(images, 8))


def qwen_place(images: Any, unit: int) -> Place:
    """Tokens row by row, on the grid that the library's own image processor makes."""

    def place(row: NDArray[np.float32], image: Image.Image) -> NDArray[np.float32]:
        _, rows, columns = images(images=image, return_tensors="np")["image_grid_thw"][0].tolist()
        return row.reshape(rows // 2, columns // 2)

    return place


def qwen3_vl(folder: Path) -> CausalPair:
    """Qwen3-VL: features of two depths are added to the first text layers."""
    tokenizer = qwen_tokenizer()
    vision = QWEN_VISION | {"depth": 3, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "mrope_interleaved": True}
    text = text_sizes(vocab_size=len(tokenizer), head_dim=8, rope_parameters=rope)
    text |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = transformers.Qwen3VLConfig(vision_config=vision, text_config=text, **qwen_ids(tokenizer))
    net = peaked(transformers.Qwen3VLForConditionalGeneration(config), sharpness=4.5)
    images = image_processor("Qwen2VL", patch_size=4, merge_size=2, size={"shortest_edge": 256, "longest_edge": 2400})
    chat = QWEN_CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    processor = without_videos(transformers.Qwen3VLProcessor, images, tokenizer, chat_template=chat)
    return pair_of(folder, net, processor, qwen_place(images, 8))


def llava_onevision(folder: Path) -> CausalPair:
    """LLaVA-OneVision: tiles of 32 pixels, 4 x 4 tokens each, on at most 2 x 2 tiles' tokens."""
    special = ["<|im_start|>", "<|im_end|>", "<image>", "<video>"]
    tokenizer = byte_tokenizer(special, eos="<|im_end|>", image_token="<image>", video_token="<video>")
    text = text_sizes(model_type="qwen2", vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    pinpoints = [[a * 32, b * 32] for a in (1, 2, 3) for b in (1, 2, 3)]
    config = transformers.LlavaOnevisionConfig(
        vision_config=SIGLIP,
        text_config=text,
        image_grid_pinpoints=pinpoints,
        vision_aspect_ratio="anyres_max_4",
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
    )
    net = peaked(transformers.LlavaOnevisionForConditionalGeneration(config))
    images = image_processor("LlavaOnevision", size={"height": 32, "width": 32}, image_grid_pinpoints=pinpoints)
    processor = without_videos(
        transformers.LlavaOnevisionProcessor,
        images,
        tokenizer,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_4",
        chat_template=QWEN_CHAT.replace("IMAGE", "<image>\n"),
    )

    def place(row: NDArray[np.float32], image: Image.Image) -> NDArray[np.float32]:
        if max(image.size) > 12 * min(image.size):  # the thumbnail's alone
            return row[:16].reshape(4, 4)
        rows, columns = {(90, 60): (6, 9), (48, 80): (9, 6), (64, 64): (8, 8)}[image.size]
        grid = row[16:].reshape(rows, columns + 1)[:, :columns].copy()
        for index, share in enumerate(row[:16]):  # the thumbnail's, by area
            top, left = divmod(index, 4)
            fine = np.zeros((4 * rows, 4 * columns), np.float32)
            fine[top * rows : (top + 1) * rows, left * columns : (left + 1) * columns] = share / (rows * columns)
            grid += fine.reshape(rows, 4, columns, 4).sum((1, 3))
        return grid

    return pair_of(folder, net, processor, place)


def internvl(folder: Path) -> CausalPair:
    """InternVL: at most 6 tiles of 32 pixels, 2 x 2 tokens each."""
    special = ["<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    tokenizer = byte_tokenizer(special, eos="<|im_end|>", video_token="<video>", **names)
    vision = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": [32, 32],
        "patch_size": [8, 8],
    }
    text = text_sizes(model_type="qwen2", vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    config = transformers.InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        downsample_ratio=0.5,
    )
    net = peaked(transformers.InternVLForConditionalGeneration(config))
    options = {"crop_to_patches": True, "min_patches": 1, "max_patches": 6}
    images = image_processor("GotOcr2", size={"height": 32, "width": 32}, **options)
    chat = QWEN_CHAT.replace("IMAGE", "<IMG_CONTEXT>\n")
    processor = without_videos(
        transformers.InternVLProcessor, images, tokenizer, image_seq_length=4, chat_template=chat
    )

    def place(row: NDArray[np.float32], image: Image.Image) -> NDArray[np.float32]:
        rows, columns = {(90, 60): (2, 3), (48, 80): (3, 2), (64, 64): (2, 2)}[image.size]
        tiles = tiles_to_grid(row[: rows * columns * 4], rows, columns, 2)
        return tiles + spread(row[rows * columns * 4 :].reshape(2, 2), rows * 2, columns * 2)

    return pair_of(folder, net, processor, place)


def gemma3(folder: Path, *, crops: bool = False) -> CausalPair:
    """Gemma 3: 4 x 4 tokens of 8 x 8 patches; two of three layers look back 16 tokens. ``crops``: of long images."""
    special = ["<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = byte_tokenizer(special, eos="<end_of_turn>", bos="<bos>", **names)
    text = text_sizes(
        vocab_size=len(tokenizer),
        head_dim=8,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        query_pre_attn_scalar=8,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    config = transformers.Gemma3Config(
        vision_config=SIGLIP | {"image_size": 64},
        text_config=text,
        mm_tokens_per_image=16,
        image_token_id=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_id=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_id=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        eos_token_id=tokenizer.eos_token_id,
    )
    net = peaked(transformers.Gemma3ForConditionalGeneration(config))
    half = [0.5, 0.5, 0.5]
    settings = {"pan_and_scan_min_crop_size": 16, "pan_and_scan_max_num_crops": 3}
    settings |= {"pan_and_scan_min_ratio_to_activate": 1.2, "do_pan_and_scan": crops}
    side = {"height": 64, "width": 64}
    images = image_processor("Gemma3", size=side, image_mean=half, image_std=half, **settings)
    chat = (
        "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}<start_of_image>"
        "{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    )
    processor = transformers.Gemma3Processor(images, tokenizer, chat_template=chat, image_seq_length=16)

    def place(row: NDArray[np.float32], image: Image.Image) -> NDArray[np.float32]:
        if len(row) == 16:
            return row.reshape(4, 4)
        rows, columns = {(90, 60): (1, 2), (48, 80): (2, 1)}[image.size]
        whole = spread(row[:16].reshape(4, 4), rows * 4, columns * 4)
        return whole + tiles_to_grid(row[16:], rows, columns, 4)

    pair = pair_of(folder, net, processor, place)
    pair.options = settings  # this processor follows no folder in it
    return pair


def gemma3_crops(folder: Path) -> CausalPair:
    """Gemma 3 with pan and scan."""
    return gemma3(folder, crops=True)


def paligemma(folder: Path) -> CausalPair:
    """PaliGemma: image and question see each other; there is no chat template."""
    special = ["<bos>", "<eos>", "<image>"]
    tokenizer = byte_tokenizer(special, eos="<eos>", bos="<bos>", image_token="<image>")
    text = text_sizes(model_type="gemma", vocab_size=len(tokenizer), head_dim=8, eos_token_id=tokenizer.eos_token_id)
    text |= {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.eos_token_id}
    config = transformers.PaliGemmaConfig(
        vision_config=SIGLIP | {"projection_dim": 48, "num_image_tokens": 16},
        text_config=text,
        projection_dim=48,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    net = peaked(transformers.PaliGemmaForConditionalGeneration(config), sharpness=1.5)
    half = [0.5, 0.5, 0.5]
    images = image_processor("Siglip", size={"height": 32, "width": 32}, image_mean=half, image_std=half)
    images.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(images, tokenizer)
    return pair_of(folder, net, processor, lambda row, image: row.reshape(4, 4))
