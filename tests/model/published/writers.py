"""What the tests of all families that write have in common: tokenizers, and one way to compare two sides."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from model.interface import Generation, Item, MapRequest, Output
from model.published.generation.config import WritingDefaults
from model.published.prompted.cross_reader import CrossBlock

SPECIAL = ("<pad>", "</s>", "<s>", "<unk>")
MERGES = (
    ("c", "a"),
    ("ca", "t"),
    ("t", "h"),
    ("th", "e"),
    ("Ġ", "the"),
    ("Ġ", "a"),
    ("r", "e"),
    ("re", "d"),
    ("o", "g"),
)
QUESTIONS = ("what is the color of the cat?", "a dog", "how many are there in this photo, two or 3?")
SHAPES = ((90, 50), (50, 90), (64, 64), (300, 64))
SHORT = Generation(max_new_tokens=6)


def byte_tokenizer(*, before: str = "", after: str = "", more: Sequence[str] = ()) -> Any:
    """A byte-level BPE tokenizer with a few merges, as OPT's, Llama's and many others are. ``before`` and ``after``:
    special tokens around a text; ``more`` special tokens come last."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*SPECIAL, *letters, *("".join(pair) for pair in MERGES), *more]
    ids = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(ids, list(MERGES), unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*SPECIAL, *more])
    if before or after:
        single = " ".join(part for part in (before, "$A", after) if part)
        around = [(token, ids[token]) for token in (before, after) if token]
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=around)
    names = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def ask(ours: Any, image: Any, *texts: str, task: str = "answer", **options: Any) -> Output:
    """One item through ours."""
    [output] = ours.run(task, [Item(image, texts, **options)])
    assert isinstance(output, Output), output
    return output


def assert_peaked(rows: torch.Tensor) -> None:
    """On flat attention a wrong map would pass: entropy below half of uniform. ``rows`` ``[.., keys]``."""
    entropy = -(rows * rows.clamp_min(1e-30).log()).sum(-1).mean()
    assert entropy < 0.5 * math.log(rows.shape[-1])


def assert_maps(tokens: Sequence[Any], rows: Any, first: int = 1) -> None:
    """Tokens' maps against rows ``[tokens, keys]`` of which the keys from ``first`` on are the patches, row by row."""
    assert len(tokens) == len(rows)
    for token, row in zip(tokens, rows, strict=True):
        patches = np.asarray(row)[first:]
        np.testing.assert_allclose(np.ravel(token.map.values), patches, atol=1e-5)
        assert token.map.elsewhere == pytest.approx(1.0 - patches.sum(), abs=2e-5)


def assert_same(one: Any, other: Any) -> None:
    """Two outputs of one text: the same words, scores and maps to 1e-5."""
    assert [r.answer for r in one.ranking] == [r.answer for r in other.ranking]
    assert [r.score for r in one.ranking] == pytest.approx([r.score for r in other.ranking], rel=1e-3, abs=1e-9)
    assert (one.token_count, one.answer_token_count) == (other.token_count, other.answer_token_count)
    for a, b in zip((*one.tokens, *one.answer_tokens), (*other.tokens, *other.answer_tokens), strict=True):
        assert (a.text, a.span) == (b.text, b.span)
        np.testing.assert_allclose(a.map.values, b.map.values, atol=1e-5, rtol=1e-3)
    if one.answer_map is not None:
        np.testing.assert_allclose(one.answer_map.values, other.answer_map.values, atol=1e-5, rtol=1e-3)


def assert_batch_is_alone(ours: Any, images: Sequence[Any], maps: MapRequest | None) -> None:
    """Several images, texts of several lengths, and settings of their own in one call."""
    drawn = Generation(max_new_tokens=5, temperature=1.0, top_p=0.9, seed=7)
    items = [
        Item(images[0], QUESTIONS, maps=maps),
        Item(images[1], QUESTIONS[1:], maps=maps, generation=drawn),
        Item(images[0], QUESTIONS[:1], maps=maps, generation=Generation(max_new_tokens=2)),
        Item(images[1], QUESTIONS[:2], maps=maps, candidates=("cat", "a red dog", "the")),
    ]
    for item, output in zip(items, ours.run("answer", items), strict=True):
        for text, found in zip(item.texts, output.texts, strict=True):
            options = {"maps": maps, "generation": item.generation, "candidates": item.candidates}
            assert_same(found, ask(ours, item.image, text, **options).texts[0])


def assert_kept_is_as_new(ours: Any, kept: Any, pixels: Any) -> None:
    """``kept``, encoded among others and asked again and again, is as ``pixels`` encoded anew for each question."""
    for question in QUESTIONS:
        [anew] = ours.encode([pixels])
        one, other = (ask(ours, i, question, maps=MapRequest(), generation=SHORT) for i in (kept, anew))
        assert_same(one.texts[0], other.texts[0])


def roll_maps(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    """A mutant: the maps of `CrossBlock` moved on by one along axis ``place``."""
    forward = CrossBlock.forward

    def rolled(self: Any, *args: Any, **kwargs: Any) -> Any:
        states, found = forward(self, *args, **kwargs)
        return states, None if found is None else found.roll(1, place)

    monkeypatch.setattr(CrossBlock, "forward", rolled)


def assert_spans(text: str, tokens: Sequence[Any]) -> None:
    """Each token with a span is what stands there."""
    found = [token for token in tokens if token.span is not None]
    assert found
    for token in found:
        assert text[slice(*token.span)].strip() == token.text.strip()


def assert_defaults_are_followed(ours: Any, image: Any, generate: Callable[..., list[int]]) -> None:
    """What a folder's generation_config.json may say of writing, against transformers' ``generate`` with the same;
    ``image`` is encoded by ours, and both are asked the first of `QUESTIONS`."""
    plain = generate(max_new_tokens=8)
    said: dict[str, Any] = {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2, "suppress_tokens": [plain[1]]}
    theirs = generate(max_new_tokens=8, **said)
    assert theirs != plain
    said["suppress_tokens"] = tuple(said["suppress_tokens"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ours, "defaults", WritingDefaults(8, **said))
        [text] = ask(ours, image, QUESTIONS[0]).texts
    kept = [token for token in theirs if token not in ours.ends]
    assert text.ranking[0].answer == ours.tokenizer.hub.decode(kept, skip_special_tokens=True).strip()
    assert text.answer_token_count == len(kept)
