"""A tiny Idefics, ours and transformers' own, of the same folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from PIL import Image

from model.published.loading import load
from tests.model.published import checkpoints
from tests.model.published.writers import byte_tokenizer

MARK = "<fake_token_around_image><image><fake_token_around_image>"
SHARP = ("cross_attn.q_proj", "cross_attn.k_proj", ".0.q_proj", ".0.k_proj")  # gated layers, and the resampler's
LATENTS = 6


class Theirs(NamedTuple):
    """What transformers' own eager attention did with prompt and answer: logits ``[n + m, vocabulary]``, each gated
    layer ``[heads, n + m, keys]``, and each block of the resampler ``[heads, latents, image keys + latents]``."""

    logits: torch.Tensor
    crossed: list[torch.Tensor]
    resampled: list[torch.Tensor]


@dataclass
class IdeficsPair:
    """Our model and transformers' own, of the same weights and folder."""

    ours: Any
    theirs: Any
    folder: Path

    def encode(self, *images: Image.Image) -> list[Any]:
        """The images, encoded by ours one by one."""
        return [self.ours.encode([self.ours.info.preprocess(image)])[0] for image in images]

    def ids(self, question: str) -> list[int]:
        """The prompt's tokens, as its documentation puts it and by the checkpoint's own tokenizer."""
        hub = transformers.AutoTokenizer.from_pretrained(self.folder)
        if "<end_of_utterance>" in hub.get_vocab():
            prompt = f"<s>User:{MARK}{question}<end_of_utterance>\nAssistant:"
        else:
            instruction = "Instruction: Provide an answer to the question. Use the image to answer.\n"
            prompt = f"<s>{instruction}{MARK}Question: {question} Answer:"
        found: list[int] = hub(prompt, add_special_tokens=False)["input_ids"]
        return found

    @property
    def banned(self) -> list[int]:
        """The tokens that its documentation bans from answers."""
        hub = self.ours.tokenizer.hub
        return [hub.convert_tokens_to_ids(token) for token in ("<image>", "<fake_token_around_image>")]

    def inputs(self, image: Image.Image, ids: list[int]) -> dict[str, torch.Tensor]:
        """As transformers' processor puts them together: tokens from the image on see it."""
        pixels = checkpoints.image_processor("Idefics", image_size=64)(image, return_tensors="pt")
        pixels = pixels if isinstance(pixels, torch.Tensor) else pixels["pixel_values"]
        mask = torch.zeros(1, len(ids), 1, dtype=torch.long)
        mask[:, ids.index(self.banned[0]) :] = 1
        known = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        return known | {"pixel_values": pixels.to(self.theirs.dtype)[:, None], "image_attention_mask": mask}

    @torch.no_grad()
    def generate(self, image: Image.Image, question: str, **options: Any) -> list[int]:
        """The tokens that transformers' own `generate` writes, greedily."""
        inputs = self.inputs(image, self.ids(question))
        banned = [[token] for token in self.banned]
        found = self.theirs.generate(**inputs, do_sample=False, bad_words_ids=banned, **options)[0]
        return list(found[inputs["input_ids"].shape[1] :].tolist())

    @torch.no_grad()
    def look(self, image: Image.Image, question: str, made: list[int]) -> Theirs:
        """One pass of transformers' own eager attention over prompt and answer."""
        inputs = self.inputs(image, [*self.ids(question), *made])
        model, crossed = self.theirs.model, []
        layers = [layer.cross_attn for layer in model.gated_cross_attn_layers]
        handles = [one.register_forward_hook(lambda _m, _a, out: crossed.append(out[1][0])) for one in layers]
        blocks = [attention for attention, _ in model.perceiver_resampler.blocks] if self.ours.resampler else []
        with written_out(blocks) as resampled:
            logits = self.theirs(**inputs).logits[0]
        for handle in handles:
            handle.remove()
        return Theirs(logits, crossed, resampled)


@contextmanager
def written_out(blocks: list[Any]) -> Iterator[list[torch.Tensor]]:
    """The attention of resampler blocks, from what passes through their projections: they return none."""
    kept: list[dict[str, torch.Tensor]] = [{} for _ in blocks]
    found: list[torch.Tensor] = []
    handles = []
    for block, own in zip(blocks, kept, strict=True):
        for name in ("q_proj", "k_proj"):
            module = getattr(block, name)
            handles.append(
                module.register_forward_hook(lambda _m, _a, out, own=own, name=name: own.update({name: out}))
            )
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
    for block, own in zip(blocks, kept, strict=True):
        q, k = (own[name][0].view(-1, block.n_heads, block.head_dim).transpose(0, 1) for name in ("q_proj", "k_proj"))
        if block.qk_layer_norms:
            q, k = block.q_layer_norm(q), block.k_layer_norm(k)
        found.append((q @ k.transpose(1, 2) / block.head_dim**0.5).softmax(-1))


def idefics_net(*, instruct: bool, resampler: bool, alpha: str, seed: int = 0) -> tuple[Any, Any]:
    """transformers' own tiny Idefics: 4 layers, gated cross-attention before every other."""
    more = ["<fake_token_around_image>", "<image>", *(["<end_of_utterance>"] if instruct else [])]
    tokenizer = byte_tokenizer(before="<s>", more=more)
    config = transformers.IdeficsConfig(
        vocab_size=len(tokenizer) - len(more),
        additional_vocab_size=len(more),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        cross_layer_interval=2,
        max_position_embeddings=256,
        qk_layer_norms=instruct,
        use_resampler=resampler,
        alpha_initializer="ones",
        alpha_type=alpha,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        vision_config={
            "embed_dim": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "image_size": 64,
            "patch_size": 16,
        },
        perceiver_config={
            "use_resampler": resampler,
            "resampler_n_latents": LATENTS,
            "resampler_depth": 2,
            "resampler_n_heads": 3,
            "resampler_head_dim": 10,
            "qk_layer_norms_perceiver": not instruct,
        },
    )
    net = transformers.IdeficsForVisionText2Text(config)
    sharpness = 2.5 if instruct else 3.0
    return checkpoints.peaked(net, seed=seed, sharpness=sharpness, sharp=SHARP), tokenizer


def save_idefics(folder: Path, kind: str) -> Path:
    """A folder as a hub repository is: ``base``, ``instruct``, or ``patches`` for one without a resampler."""
    alpha = "vector" if kind == "base" else "float"
    net, tokenizer = idefics_net(instruct=kind == "instruct", resampler=kind != "patches", alpha=alpha)
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    checkpoints.image_processor("Idefics", image_size=64).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", params=["base", "instruct", "patches"])
def idefics(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> IdeficsPair:
    """A tiny model, in float64: peaked attention magnifies what float32 rounds to beyond 1e-5."""
    folder = save_idefics(tmp_path_factory.mktemp(request.param), request.param)
    theirs = transformers.IdeficsForVisionText2Text.from_pretrained(folder, attn_implementation="eager").eval()
    ours = load(folder, id=request.param)
    ours.net.double()
    return IdeficsPair(ours, theirs.double(), folder)
