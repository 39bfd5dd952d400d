"""A tiny Llama 3.2 Vision, ours and transformers' own, of the same folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from PIL import Image
from transformers.models.mllama import modeling_mllama

from model.published.loading import load
from tests.model.published import checkpoints
from tests.model.published.writers import byte_tokenizer

IMAGE = "<|image|>"
TURNS = ("<|user|>", "<|assistant|>", "<|end|>")
CHAT = (
    "{{ bos_token }}{% for message in messages %}<|user|>{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SHARP = ("q_proj", "k_proj")


class Theirs(NamedTuple):
    """What transformers' own eager attention did with prompt and answer: logits ``[n + m, vocabulary]``, and each layer
    of cross-attention ``[heads, n + m, keys]``, keys of empty tiles included."""

    logits: torch.Tensor
    crossed: list[torch.Tensor]
    tiles: int


@dataclass
class MllamaPair:
    """Our model and transformers' own, of the same weights and folder."""

    ours: Any
    theirs: Any
    folder: Path

    def encode(self, *images: Image.Image) -> list[Any]:
        """The images, encoded by ours one by one."""
        return [self.ours.encode([self.ours.info.preprocess(image)])[0] for image in images]

    def prompt(self, question: str) -> str:
        """The prompt as it reads."""
        if self.theirs.chat:
            return f"<s><|user|>{IMAGE}{question.strip()}<|end|><|assistant|>"
        return f"{IMAGE}<s>{question}"

    def inputs(self, image: Image.Image, ids: list[int]) -> dict[str, torch.Tensor]:
        """As transformers' processor puts them together."""
        size = {"height": 32, "width": 32}
        found = checkpoints.image_processor("Mllama", size=size, max_image_tiles=4)([[image]], return_tensors="pt")
        tiles = int(found.pop("num_tiles")[0][0])
        mask = torch.zeros(1, len(ids), 1, 4, dtype=torch.long)
        mask[:, ids.index(self.theirs.config.image_token_index) :, :, :tiles] = 1
        inputs = {name: value.clone() for name, value in found.items()}
        inputs["pixel_values"] = inputs["pixel_values"].to(self.theirs.dtype)
        return inputs | {"input_ids": torch.tensor([ids]), "cross_attention_mask": mask}

    def ids(self, question: str) -> list[int]:
        """The prompt's tokens, by the checkpoint's own tokenizer."""
        hub = transformers.AutoTokenizer.from_pretrained(self.folder)
        found: list[int] = hub(self.prompt(question), add_special_tokens=False)["input_ids"]
        return found

    @contextmanager
    def set_right(self) -> Iterator[None]:
        """transformers' own, but for the one thing: rows before the image get nothing from cross-attention."""
        prepare, latest = modeling_mllama._prepare_cross_attention_mask, []

        def prepared(*args: Any, **kwargs: Any) -> Any:
            mask, rows = prepare(*args, **kwargs)
            latest[:] = [rows[:, 0]]
            return mask, rows

        def nothing_before(_module: Any, _args: Any, output: Any) -> Any:
            return output[0] * latest[0], output[1] * latest[0][:, None]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(modeling_mllama, "_prepare_cross_attention_mask", prepared)
            handles = [layer.register_forward_hook(nothing_before) for layer in self.crossing]
            try:
                yield
            finally:
                for handle in handles:
                    handle.remove()

    @property
    def crossing(self) -> list[Any]:
        """Their layers' cross-attention."""
        layers = self.theirs.model.language_model.layers
        return [layer.cross_attn for layer in layers if hasattr(layer, "cross_attn")]

    @torch.no_grad()
    def generate(self, image: Image.Image, question: str, **options: Any) -> list[int]:
        """The tokens that transformers' own `generate` writes, greedily."""
        inputs = self.inputs(image, self.ids(question))
        with self.set_right():
            found = self.theirs.generate(**inputs, do_sample=False, **options)[0]
        return list(found[inputs["input_ids"].shape[1] :].tolist())

    @torch.no_grad()
    def look(self, image: Image.Image, question: str, made: list[int], *, right: bool = True) -> Theirs:
        """One pass of transformers' own eager attention over prompt and answer."""
        inputs = self.inputs(image, [*self.ids(question), *made])
        kept: list[torch.Tensor] = []
        with self.set_right() if right else nullcontext():
            keep = [one.register_forward_hook(lambda _m, _a, out: kept.append(out[1][0])) for one in self.crossing]
            logits = self.theirs(**inputs).logits[0]
        for handle in keep:
            handle.remove()
        return Theirs(logits, kept, int(inputs["aspect_ratio_mask"].sum()))


def mllama_net(*, seed: int = 0) -> Any:
    """transformers' own tiny Llama 3.2 Vision: 2 of 5 layers look at up to four tiles of 4 patches each."""
    more = [IMAGE, *TURNS]
    tokenizer = byte_tokenizer(before="<s>", more=more)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "cross_attention_layers": [1, 3],
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "eos_token_id": [1, tokenizer.convert_tokens_to_ids("<|end|>")],
        "bos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    vision = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_global_layers": 1,
        "attention_heads": 3,
        "image_size": 32,
        "patch_size": 16,
        "max_num_tiles": 4,
        "intermediate_layers_indices": [0, 1],
        "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
        "vision_output_dim": 72,
    }
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    config = transformers.MllamaConfig(vision_config=vision, text_config=text, image_token_index=image)
    net = checkpoints.peaked(transformers.MllamaForConditionalGeneration(config), seed=seed, sharpness=3.5, sharp=SHARP)
    return net, tokenizer


def save_mllama(folder: Path, *, chat: bool = True) -> Path:
    """A folder as a hub repository is."""
    net, tokenizer = mllama_net()
    net.save_pretrained(folder)
    tokenizer.chat_template = CHAT if chat else None
    tokenizer.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    checkpoints.image_processor("Mllama", size=size, max_image_tiles=4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", params=["chat", "base"])
def mllama(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MllamaPair:
    """A tiny model, in float64: peaked attention magnifies what float32 rounds to beyond 1e-5."""
    chat = request.param == "chat"
    folder = save_mllama(tmp_path_factory.mktemp(request.param), chat=chat)
    theirs = transformers.MllamaForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    ours = load(folder, id=request.param)
    ours.net.double()
    theirs.double().chat = chat
    return MllamaPair(ours, theirs, folder)
