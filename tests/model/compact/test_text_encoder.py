"""Tokens with spans in the text as sent, and the text encoder."""

from __future__ import annotations

import unicodedata

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertModel

from model.compact.model import tiny
from model.compact.text_encoder import (
    CLS,
    MASK,
    PAD,
    SEP,
    SPECIAL_TOKENS,
    UNK,
    TextEncoder,
    bert_weights,
    build_tokenizer,
    pad_ids,
    tokenize,
)

TOKENIZER = tiny().tokenizer
ALPHABET = "acehimostw AEIT?.,'’-–\u00e9\u00c9\u0301\u0130\u00df\ufb01\U0001f431\U0001f469\u200d你\u3000\u00a0\t\n"


def pieces(text: str) -> list[tuple[str, str]]:
    """Each token that is not special, with the part of the text that it stands for."""
    found = tokenize(TOKENIZER, text)
    return [(t, text[slice(*s)]) for t, s in zip(found.texts, found.spans, strict=True) if s is not None]


def plain(text: str) -> str:
    """Lower case, without accents and what does not print: what a piece holds of a text."""
    decomposed = unicodedata.normalize("NFD", text.lower())
    return "".join(c for c in decomposed if unicodedata.category(c) not in ("Mn", "Cf"))


def test_words_have_their_spans_and_the_ends_none() -> None:
    found = tokenize(TOKENIZER, "What is this?")
    assert found.texts == ["[CLS]", "what", "is", "this", "?", "[SEP]"]
    assert found.spans == [None, (0, 4), (5, 7), (8, 12), (12, 13), None]
    assert found.ids[0] == CLS
    assert found.ids[-1] == SEP


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the the cat", [("the", "the"), ("the", "the"), ("cat", "cat")]),
        ("dog-cat", [("dog", "dog"), ("-", "-"), ("cat", "cat")]),
        ("man's", [("man", "man"), ("'", "'"), ("s", "s")]),
        ("man’s", [("man", "man"), ("'", "’"), ("s", "s")]),
        ("dog—cat", [("dog", "dog"), ("-", "—"), ("cat", "cat")]),
        ("e\u0301a", [("e", "e"), ("##a", "a")]),
        ("\u00e9a", [("e", "\u00e9"), ("##a", "a")]),
        ("CAT", [("cat", "CAT")]),
        ("a\u3000cat\u00a0is", [("a", "a"), ("cat", "cat"), ("is", "is")]),
        ("\U0001f431 cat", [("[UNK]", "\U0001f431"), ("cat", "cat")]),
        ("你好 cat", [("[UNK]", "你"), ("[UNK]", "好"), ("cat", "cat")]),
        ("catdog", [("cat", "cat"), ("##d", "d"), ("##o", "o"), ("##g", "g")]),
    ],
)
def test_spans_count_code_points_of_the_text_as_sent(text: str, expected: list[tuple[str, str]]) -> None:
    assert pieces(text) == expected


def test_a_repeated_word_has_each_time_its_own_span() -> None:
    found = tokenize(TOKENIZER, "cat cat cat")
    assert found.spans[1:-1] == [(0, 3), (4, 7), (8, 11)]


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from(ALPHABET), max_size=25))
def test_spans_of_any_text_run_forward_and_hold_their_piece(text: str) -> None:
    found = tokenize(TOKENIZER, text)
    end = 0
    for piece, span in zip(found.texts[1:-1], found.spans[1:-1], strict=True):
        assert span is not None
        assert end <= span[0] < span[1] <= len(text)
        end = span[1]
        if piece not in SPECIAL_TOKENS:
            own = plain(text[slice(*span)]).replace("’", "'").replace("–", "-")
            assert piece.removeprefix("##") in own


@pytest.mark.parametrize(
    ("text", "share"), [("你好吗", 1.0), ("what is 你", 1 / 3), ("what is this", 0.0), ("", 0.0), ("\U0001f431", 1.0)]
)
def test_the_share_that_the_vocabulary_cannot_represent(text: str, share: float) -> None:
    assert tokenize(TOKENIZER, text).unknown_share == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "  \n", "\u200b\u200d", "\x00"])
def test_a_text_of_nothing_has_only_the_special_tokens(text: str) -> None:
    assert tokenize(TOKENIZER, text).ids == [CLS, SEP]


def test_a_mask_is_one_token_and_the_other_special_ones_are_mere_text() -> None:
    """Training puts [MASK] into captions; a user who writes [SEP] does not end the question."""
    assert MASK in tokenize(TOKENIZER, "a [MASK] is").ids
    ids = tokenize(TOKENIZER, "a [SEP] [PAD] is").ids
    assert ids.count(SEP) == 1
    assert PAD not in ids


def test_every_id_is_its_place_in_the_vocabulary() -> None:
    tokenizer = build_tokenizer([*SPECIAL_TOKENS, "cat", "##s"])
    assert tokenize(tokenizer, "cats dog").ids == [CLS, 5, 6, UNK, SEP]
    with pytest.raises(ValueError, match="must start with"):
        build_tokenizer(["cat", *SPECIAL_TOKENS])


def test_padding() -> None:
    ids, mask = pad_ids([[CLS, 9, SEP], [CLS, SEP]])
    assert ids.tolist() == [[CLS, 9, SEP], [CLS, SEP, PAD]]
    assert mask.tolist() == [[True, True, True], [True, True, False]]
    assert pad_ids([[CLS, SEP]], 4)[0].shape == (1, 4)


def test_padding_changes_no_text() -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(50, dim=24, num_heads=2, layers=2, max_tokens=16).eval()
    rows = [[CLS, 7, 8, 9, 10, SEP], [CLS, 11, SEP], [CLS, SEP]]
    with torch.no_grad():
        together = encoder(*pad_ids(rows))
        for row, states in zip(rows, together, strict=True):
            alone = encoder(*pad_ids([row]))[0]
            torch.testing.assert_close(states[: len(row)], alone, atol=1e-5, rtol=1e-5)
    assert together.shape == (3, 6, 24)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_it_is_a_bert_with_the_same_weights(implementation: str) -> None:
    """Against transformers' own, for texts of every length; its weights are taken under their published names."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=24,
        num_attention_heads=3,
        num_hidden_layers=3,
        intermediate_size=96,
        max_position_embeddings=16,
        initializer_range=0.5,  # so that attention is not flat
    )
    config._attn_implementation = implementation
    theirs = BertModel(config).double().eval()
    for parameter in theirs.parameters():
        if parameter.ndim == 1:  # norms and biases too, which are born as ones and zeros
            parameter.add_(torch.randn(parameter.shape) * 0.3)
    encoder = TextEncoder(50, dim=24, num_heads=3, layers=3, max_tokens=16).double().eval()
    encoder.load_state_dict(bert_weights(theirs.state_dict()))
    ids, mask = pad_ids([torch.randint(5, 50, (length,)).tolist() for length in (16, 1, 5, 12)])
    expected = theirs(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(encoder(ids, mask)[mask], expected[mask], atol=1e-10, rtol=1e-10)


def test_a_checkpoint_that_lacks_a_weight_is_refused() -> None:
    config = BertConfig(hidden_size=24, num_attention_heads=2, num_hidden_layers=2, vocab_size=50, intermediate_size=96)
    theirs = BertModel(config, add_pooling_layer=False).state_dict()
    assert (
        bert_weights(theirs).keys() == TextEncoder(50, dim=24, num_heads=2, layers=2, max_tokens=9).state_dict().keys()
    )
    del theirs["encoder.layer.1.output.dense.bias"]
    with pytest.raises(KeyError, match=r"encoder\.layer\.1\.output\.dense\.bias"):
        bert_weights(theirs)
