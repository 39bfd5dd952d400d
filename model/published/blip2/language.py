"""The language model behind a few vectors of an image: transformers' own, decoder-only or with an encoder.

The sequence is short (32 queries and a prompt), so the pass that makes maps keeps the attention of each layer whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from model.published.generation.sessions import Session
from model.published.prompted.prompts import Forced


class LanguageModel:
    """Reads embedded sequences ``[rows, queries + n, dim]`` and writes behind them.

    The maps of `forced` are attention to the first ``queries`` positions, head mean, mean over the chosen layers.
    """

    def __init__(self, net: Any, queries: int) -> None:
        """``net``: a causal language model of transformers, or one with an encoder (T5)."""
        self.net, self.queries = net, queries
        self.has_encoder = bool(net.config.is_encoder_decoder)
        self.start_id = 0
        if self.has_encoder:
            config = net.config
            start = config.decoder_start_token_id
            self.start_id = int(config.pad_token_id if start is None else start)

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings ``[rows, n, dim]`` of ids ``[rows, n]``."""
        embedded: Tensor = self.net.get_input_embeddings()(ids)
        return embedded

    def begin(self, embedded: Tensor) -> Session:
        """Read sequences ``[rows, queries + n, dim]``."""
        return _Seq2SeqSession(self, embedded) if self.has_encoder else _CausalSession(self.net, embedded)

    def forced(self, embedded: Tensor, made: Tensor, layers: Sequence[int] | None) -> Forced:
        """Read sequences ``[rows, queries + n, dim]`` and the answers ``made`` ``[rows, m]``; maps are over the
        queries, of these ``layers`` (None: no maps)."""
        with _written_out(self.net, layers is not None):
            if self.has_encoder:
                return self._forced_seq2seq(embedded, made, layers)
            size = embedded.shape[1]
            whole = torch.cat([embedded, self.embed(made)], 1)
            kept = made.shape[1] + 1  # of a prompt's tokens the vocabulary would cost as much as some layers
            options = {"use_cache": False, "output_attentions": layers is not None, "logits_to_keep": kept}
            result = self.net(inputs_embeds=whole, **options)
        if layers is None:
            return Forced(result.logits)
        rows = _chosen(result.attentions, layers)[:, :, : self.queries]
        return Forced(result.logits, rows[:, self.queries : size], rows[:, size - 1 :])

    def _forced_seq2seq(self, embedded: Tensor, made: Tensor, layers: Sequence[int] | None) -> Forced:
        """The prompt's tokens look from the encoder, the answer's from the decoder, at the encoder's states."""
        start = torch.full((len(made), 1), self.start_id, device=made.device, dtype=made.dtype)
        fed = torch.cat([start, made], 1)
        result = self.net(
            inputs_embeds=embedded, decoder_input_ids=fed, use_cache=False, output_attentions=layers is not None
        )
        if layers is None:
            return Forced(result.logits)
        read = _chosen(result.encoder_attentions, layers)[:, self.queries :, : self.queries]
        return Forced(result.logits, read, _chosen(result.cross_attentions, layers)[:, :, : self.queries])


class _CausalSession:
    def __init__(self, net: Any, embedded: Tensor) -> None:
        self._net, self._cache = net, DynamicCache()
        result = net(inputs_embeds=embedded, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self.logits: Tensor = result.logits[:, -1]

    def step(self, ids: Tensor) -> Tensor:
        result = self._net(input_ids=ids, past_key_values=self._cache, use_cache=True)
        logits: Tensor = result.logits[:, -1]
        return logits


class _Seq2SeqSession:
    def __init__(self, language: LanguageModel, embedded: Tensor) -> None:
        self._net, self._cache = language.net, EncoderDecoderCache(DynamicCache(), DynamicCache())
        self._read = self._net.get_encoder()(inputs_embeds=embedded)
        start = torch.full((len(embedded), 1), language.start_id, device=embedded.device)
        self.logits = self.step(start)

    def step(self, ids: Tensor) -> Tensor:
        result = self._net(
            encoder_outputs=self._read, decoder_input_ids=ids, past_key_values=self._cache, use_cache=True
        )
        logits: Tensor = result.logits[:, -1]
        return logits


def _chosen(attentions: Sequence[Tensor], layers: Sequence[int]) -> Tensor:
    """``[rows, asking, asked]``: the mean over heads and ``layers`` of attentions ``[rows, heads, asking, asked]``."""
    return torch.stack([attentions[layer].float().mean(1) for layer in layers]).mean(0)


@contextmanager
def _written_out(net: Any, needed: bool) -> Iterator[None]:
    """Attention is written out meanwhile, where it is ``needed``: transformers' fused functions return none."""
    if not needed:
        yield
        return
    before = net.config._attn_implementation
    net.set_attn_implementation("eager")
    try:
        yield
    finally:
        net.set_attn_implementation(before)
