"""Tiny models of BLIP-2 and InstructBLIP, ours and transformers' own, of the same folders."""

from __future__ import annotations

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

QUERIES = 5
SHARP = ("q_proj", "k_proj", "attention.query", "attention.key", "SelfAttention.k", "EncDecAttention.k")


class Theirs(NamedTuple):
    """What transformers' own eager attention did: logits ``[1 + m, vocabulary]``, and the head means ``[layers, ..]``
    of prompt and answer over the queries, and of the queries over the image's keys."""

    logits: torch.Tensor
    prompt: torch.Tensor
    answer: torch.Tensor
    queries: torch.Tensor
    heads: list[torch.Tensor]


@dataclass
class QueryPair:
    """Our model and transformers' own, of the same weights and folder."""

    ours: Any
    theirs: Any
    folder: Path

    @property
    def instructed(self) -> bool:
        """Whether the queries read the instruction."""
        return "Instruct" in type(self.theirs).__name__

    def encode(self, *images: Image.Image) -> list[Any]:
        """The images, encoded by ours one by one."""
        return [self.ours.encode([self.ours.info.preprocess(image)])[0] for image in images]

    def prompt(self, question: str) -> str:
        """What is asked of the language model, as the authors' examples do."""
        return question if self.instructed else f"Question: {question} Answer:"

    def inputs(self, image: Image.Image, prompt: str) -> dict[str, torch.Tensor]:
        """As transformers' processor puts them together."""
        processor = checkpoints.image_processor("Blip", size={"height": 64, "width": 64})
        ids = self.ours.tokenizer.hub(prompt)["input_ids"]
        inputs = {"input_ids": torch.tensor([[*[self.theirs.config.image_token_index] * QUERIES, *ids]])}
        if self.instructed:
            read = checkpoints.bert_tokenizer()(prompt, return_tensors="pt")
            inputs["qformer_input_ids"] = read["input_ids"]
        return inputs | {"pixel_values": processor(image, return_tensors="pt")["pixel_values"].to(self.theirs.dtype)}

    @torch.no_grad()
    def generate(self, image: Image.Image, question: str, **options: Any) -> list[int]:
        """The tokens that transformers' own `generate` writes, greedily."""
        inputs = self.inputs(image, self.prompt(question))
        found = self.theirs.generate(**inputs, do_sample=False, **options)[0]
        start = 1 if self.theirs.config.text_config.is_encoder_decoder else inputs["input_ids"].shape[1]
        return list(found[start:].tolist())

    @torch.no_grad()
    def look(self, image: Image.Image, prompt: str, made: list[int]) -> Theirs:
        """One pass of transformers' own eager attention over prompt and answer."""
        inputs = self.inputs(image, prompt)
        states = self.theirs.vision_model(inputs["pixel_values"]).last_hidden_state
        asked = {"query_embeds": self.theirs.query_tokens, "encoder_hidden_states": states, "output_attentions": True}
        if self.instructed:
            asked["input_ids"] = inputs["qformer_input_ids"]
        queried = self.theirs.qformer(**asked)
        features = self.theirs.language_projection(queried.last_hidden_state[:, :QUERIES])
        language, ids = self.theirs.language_model, inputs["input_ids"][:, QUERIES:]
        embedded = torch.cat([features, language.get_input_embeddings()(ids)], 1)
        looked = torch.stack([one[0].mean(0) for one in queried.cross_attentions])
        answer, size = torch.tensor([made], dtype=torch.long), embedded.shape[1]
        if language.config.is_encoder_decoder:
            fed = torch.cat([torch.tensor([[language.config.decoder_start_token_id]]), answer], 1)
            result = language(inputs_embeds=embedded, decoder_input_ids=fed, output_attentions=True)
            read = torch.stack([one[0].mean(0) for one in result.encoder_attentions])[:, QUERIES:, :QUERIES]
            said = torch.stack([one[0].mean(0) for one in result.cross_attentions])[:, :, :QUERIES]
            heads = [*result.cross_attentions, *queried.cross_attentions]
            return Theirs(result.logits[0], read, said, looked, heads)
        whole = torch.cat([embedded, language.get_input_embeddings()(answer)], 1)
        result = language(inputs_embeds=whole, output_attentions=True)
        rows = torch.stack([one[0].mean(0) for one in result.attentions])[:, :, :QUERIES]
        heads = [*(one[:, :, QUERIES:] for one in result.attentions), *queried.cross_attentions]
        return Theirs(result.logits[0, size - 1 :], rows[:, QUERIES:size], rows[:, size - 1 :], looked, heads)


def query_net(name: str, *, seed: int = 0) -> tuple[Any, Any]:
    """transformers' own tiny model, and its tokenizer: ``opt`` or ``t5`` behind BLIP-2, ``llama`` or ``flan`` behind
    InstructBLIP."""
    instructed = name in ("llama", "flan")
    tokenizer = byte_tokenizer(after="</s>") if name in ("t5", "flan") else byte_tokenizer(before="<s>")
    tokens = {"vocab_size": len(tokenizer) + 1, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 160}
    if name == "opt":
        text = transformers.OPTConfig(**tokens, **sizes, ffn_dim=48, word_embed_proj_dim=32)
    elif name == "llama":
        text = transformers.LlamaConfig(**tokens, **sizes, intermediate_size=48, num_key_value_heads=4)
    else:
        layers = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4}
        text = transformers.T5Config(**tokens, **layers, decoder_start_token_id=0, tie_word_embeddings=False)
    vision = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
    qformer = {
        "vocab_size": len(checkpoints.VOCABULARY),
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 48,
    }
    family = transformers.InstructBlipConfig if instructed else transformers.Blip2Config
    config = family(
        vision_config={**vision, "image_size": 64, "patch_size": 16},
        qformer_config=qformer,
        text_config=text,
        num_query_tokens=QUERIES,
        image_token_index=len(tokenizer),
    )
    kind = (
        transformers.InstructBlipForConditionalGeneration if instructed else transformers.Blip2ForConditionalGeneration
    )
    return checkpoints.peaked(kind(config), seed=seed, sharpness=2.5, sharp=SHARP), tokenizer


def save_query(folder: Path, name: str) -> Path:
    """A folder as a hub repository is."""
    net, tokenizer = query_net(name)
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    checkpoints.image_processor("Blip", size={"height": 64, "width": 64}).save_pretrained(folder)
    if name in ("llama", "flan"):
        checkpoints.bert_tokenizer().save_pretrained(folder / "qformer_tokenizer")
    return folder


@pytest.fixture(scope="session", params=["opt", "t5", "llama", "flan"])
def query(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> QueryPair:
    """A tiny model of each kind, in float64: peaked attention magnifies what float32 rounds to beyond 1e-5."""
    folder = save_query(tmp_path_factory.mktemp(request.param), request.param)
    ours = load(folder, id=request.param)
    theirs = type(ours.net).from_pretrained(folder, attn_implementation="eager").eval()
    ours.net.double()
    return QueryPair(ours, theirs.double(), folder)
