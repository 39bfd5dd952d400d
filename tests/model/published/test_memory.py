"""What docs/models.md says of memory, at the published sizes: models on the meta device, which holds no numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from model.published.blip2.base import Blip2
from model.published.blip2.instruct import InstructBlip
from model.published.checkpoint import Loaded, LoadRequest
from model.published.idefics.answer import Idefics
from model.published.mllama.answer import Mllama
from model.published.mllama.tiles import Tiles
from model.published.preprocess import Normalization, Resize
from model.published.tokenizer import Tokenizer
from model.published.vilt.answer import ViltAnswer
from model.published.vilt.preprocess import KeepShape
from tests.model.published import checkpoints
from tests.model.published.writers import byte_tokenizer

META = torch.device("meta")
NORMAL = Normalization(1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGES = {"mllama": (1200, 1100)}  # elsewhere 640 x 480
PAGE = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")


def built(kind: str, config: Any) -> Any:
    """transformers' own model on the meta device."""
    with META:
        return getattr(transformers, kind)(config)


def request(name: str) -> LoadRequest:
    """As if a folder were loaded in float16."""
    return LoadRequest(Path(name), name, "1", META, torch.float16, False)


def loaded(net: Any, *more: str, before: str = "<s>") -> Loaded:
    """A net with a tokenizer, and images of 224 pixels in patches of 14."""
    tokenizer = Tokenizer(byte_tokenizer(before=before, more=more))
    return Loaded(net, tokenizer, Resize(224, 224, 16, 16), NORMAL, "published", "1", META, Path("published"))


def blip2_config(text: Any, family: Any = transformers.Blip2Config) -> Any:
    """ViT-g and the Q-Former, as published; they are the defaults."""
    return family(text_config=text, num_query_tokens=32, image_token_index=4, tie_word_embeddings=False)


def vilt() -> tuple[Any, int]:
    config = transformers.ViltConfig(num_labels=3129)
    net = built("ViltForQuestionAnswering", config)
    tokenizer = Tokenizer(checkpoints.bert_tokenizer())
    return net, _bytes(ViltAnswer(net.half(), tokenizer, KeepShape(384, 32, 32), NORMAL, request("vilt")), "vilt")


def blip2_opt() -> tuple[Any, int]:
    text = transformers.OPTConfig(
        hidden_size=2560,
        num_hidden_layers=32,
        num_attention_heads=32,
        ffn_dim=10240,
        word_embed_proj_dim=2560,
        vocab_size=50304,
    )
    net = built("Blip2ForConditionalGeneration", blip2_config(text))
    return net, _bytes(Blip2(loaded(net.half())), "blip2")


def blip2_t5() -> tuple[Any, int]:
    text = transformers.T5Config(
        d_model=2048,
        d_ff=5120,
        num_layers=24,
        num_heads=32,
        vocab_size=32128,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    net = built("Blip2ForConditionalGeneration", blip2_config(text))
    return net, _bytes(Blip2(loaded(net.half())), "blip2")


def instructblip() -> tuple[Any, int]:
    text = transformers.LlamaConfig(vocab_size=32001, bos_token_id=1, eos_token_id=2)  # 7B: the defaults
    net = built("InstructBlipForConditionalGeneration", blip2_config(text, transformers.InstructBlipConfig))
    return net, _bytes(InstructBlip(loaded(net.half()), Tokenizer(checkpoints.bert_tokenizer())), "instructblip")


def mllama() -> tuple[Any, int]:
    config = transformers.MllamaConfig(
        vision_config={"image_size": 560}, image_token_index=260, text_config={"eos_token_id": 1}
    )
    net = built("MllamaForConditionalGeneration", config)
    tokenizer = Tokenizer(byte_tokenizer(before="<s>", more=["<|image|>"]))
    config.image_token_index = tokenizer.hub.convert_tokens_to_ids("<|image|>")
    return net, _bytes(Mllama(net.half(), tokenizer, Tiles(560, 4, 14), NORMAL, None, request("mllama")), "mllama")


def idefics() -> tuple[Any, int]:
    config = transformers.IdeficsConfig(
        additional_vocab_size=2,
        cross_layer_interval=4,
        qk_layer_norms=True,
        use_resampler=True,
        vision_config={
            "embed_dim": 1280,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "intermediate_size": 5120,
        },
        perceiver_config={
            "use_resampler": True,
            "resampler_depth": 6,
            "resampler_n_heads": 16,
            "resampler_head_dim": 96,
            "qk_layer_norms_perceiver": True,
        },
    )
    net = built("IdeficsForVisionText2Text", config)
    return net, _bytes(Idefics(loaded(net.half(), "<fake_token_around_image>", "<image>")), "idefics")


@torch.no_grad()
def _bytes(ours: Any, name: str) -> int:
    """What one encoded image takes, by the code that encodes it."""
    pixels = ours.info.preprocess(Image.new("RGB", IMAGES.get(name, (640, 480))))
    [image] = ours.encode([pixels])
    return int(image.nbytes)


@pytest.mark.parametrize(
    ("make", "row", "parameters", "half", "image"),
    [
        (vilt, "ViLT B/32, VQA", 117.6e6, 0.24, 0.3),
        (blip2_opt, "BLIP-2 OPT 2.7B", 3.745e9, 7.5, 0.20),
        (blip2_t5, "BLIP-2 Flan-T5 XL", 3.877e9, 7.9, 0.17),  # 3.942e9 with the head, which is tied where none is read
        (instructblip, "InstructBLIP Vicuna 7B", 7.914e9, 15.8, 4.7),
        (mllama, "Llama 3.2 11B Vision, 4 tiles", 10.67e9, 21.3, 210.0),
        (idefics, "Idefics 9B", 8.93e9, 17.9, 8.5),
    ],
)
def test_memory_is_as_documented(make: Any, row: str, parameters: float, half: float, image: float) -> None:
    """Parameters as published (to 1%), and both columns of the page's table in float16 (GB of weights, MB an image)."""
    net, size = make()
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == pytest.approx(parameters, rel=0.01)
    assert 2 * count / 1e9 == pytest.approx(half, rel=0.03)
    assert size / 1e6 == pytest.approx(image, rel=0.05)
    [line] = [line for line in PAGE.splitlines() if line.startswith(f"| {row} |")]
    assert f"{half:g} GB" in line
    assert f"{image:g} MB" in line
