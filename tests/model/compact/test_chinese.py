"""Texts with Chinese in them: words and tokens, the encoder on a tiny random twin, and answers in both languages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model.compact.answer_words import TABLE, asks_whether_there
from model.compact.chinese import (
    VOCABULARY,
    WEIGHTS,
    ChineseEncoder,
    ChineseTokenizer,
    save_chinese,
    segment,
    simplified,
)
from model.compact.model import CompactModel, load, tiny
from model.compact.text_encoder import UNK, pad_ids, tokenize
from model.interface import Item, ItemError, MapRequest
from tests.model.tools import ask, encode, near, noise, scores

PIECES = [
    "这",
    "是",
    "只",
    "猫",
    "狗",
    "什",
    "么",
    "颜",
    "色",
    "的",
    "有",
    "吗",
    "冰",
    "淇",
    "淋",
    "图",
    "里",
    "什么",
    "颜色",
    "冰淇淋",
]
QUESTION = "这只猫是什么颜色？"


def words_of(text: str) -> list[str]:
    return [text[start:end] for start, end in segment(text)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a Chinese encoder of random weights, and answers of which two are one in Chinese."""
    made, path = tiny(), tmp_path_factory.mktemp("tiny")
    made.save(path)
    config = made.net.config
    torch.manual_seed(0)
    encoder = ChineseEncoder(
        len(PIECES), dim=config.dim, num_heads=config.num_heads, layers=1, max_tokens=config.max_tokens
    )
    save_chinese(encoder, PIECES, path)
    table = {"yes": "是", "no": "不是", "cat": "猫", "dog": "狗", "red": "红色", "blue": "红色", "1": "1", "2": "2"}
    (path / TABLE).write_text("".join(f"{a}\t{b}\n" for a, b in table.items()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> CompactModel:
    return load(folder, dtype="float32")


# -- words and tokens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("照片里有冰淇淋吗？", ["照片", "里", "有", "冰淇淋", "吗"]),
        ("这是 iPhone 15 吗？", ["这", "是", "iPhone", "15", "吗"]),
        ("What does 出口 mean?", ["What", "does", "出口", "mean"]),
        ("T恤是dog's吗", ["T", "恤", "是", "dog's", "吗"]),
        ("马在哪里？", ["马", "在", "哪里"]),
        ("？！", []),
    ],
)
def test_words_are_those_of_the_dictionary(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_tokens_are_the_longest_pieces_of_words_and_cover_the_text() -> None:
    english = tiny().tokenizer
    found = ChineseTokenizer(english, PIECES)("这是cat的颜色？冰淇，鑫")
    spans = [span for span in found.spans if span is not None]
    assert found.texts[1:-1] == ["这", "是", "cat", "的", "颜色", "?", "冰", "淇", ",", "鑫"]
    assert spans == [(0, 1), (1, 2), (2, 5), (5, 6), (6, 8), (8, 9), (9, 10), (10, 11), (11, 12), (12, 13)]
    assert found.ids[-2] == UNK
    assert found.unknown_share == pytest.approx(0.1)
    assert found.chinese
    assert not tokenize(english, "cat？").chinese


@pytest.mark.parametrize(
    ("traditional", "plain"),
    [
        ("這隻貓是什麼顏色？", "这只猫是什么颜色？"),
        ("牌子上寫著什麼？", "牌子上写着什么？"),
        ("著名的桥", "著名的桥"),
        ("这是cat吗", "这是cat吗"),
    ],
)
def test_traditional_characters_are_read_as_the_simplified_ones(traditional: str, plain: str) -> None:
    assert simplified(traditional) == plain
    tokens = ChineseTokenizer(tiny().tokenizer, PIECES)
    assert tokens(traditional) == tokens(plain)


# -- the encoder ------------------------------------------------------------------------------------------------------


def test_with_the_english_layers_it_is_the_english_encoder() -> None:
    """So what it starts from in training reads English pieces as they are read in English."""
    english = tiny().net.text
    encoder = ChineseEncoder(3, dim=24, num_heads=2, layers=1, max_tokens=64)
    encoder.layers[0].load_state_dict(english.layers[0].state_dict())
    encoder.positions.data.copy_(english.positions)
    ids, mask = pad_ids([[2, 60, 70, 3], [2, 50, 3]])
    with torch.no_grad():
        torch.testing.assert_close(encoder(ids, mask, english), english(ids, mask))


def test_both_languages_in_one_batch_are_what_they_are_alone(model: CompactModel) -> None:
    texts = [model.tokenize(text) for text in (QUESTION, "What is this?", "冰淇淋", "有只狗吗？")]
    together, mask = model.texts.states(texts)
    assert mask.sum(1).tolist() == [len(text.ids) for text in texts]
    for row, text in enumerate(texts):
        alone, _ = model.texts.states([text])
        torch.testing.assert_close(together[row, : len(text.ids)], alone[0], atol=1e-5, rtol=0)


def test_words_change_what_the_model_sees(model: CompactModel) -> None:
    one, other = (model.texts.states([model.tokenize(text)])[0] for text in ("猫", "狗"))
    assert not torch.allclose(one, other, atol=1e-3)


def test_an_english_question_loads_nothing_of_it(folder: Path) -> None:
    model = load(folder, dtype="float32")
    (image,) = encode(model, noise())
    ask(model, image, "What is this?")
    assert "chinese" not in vars(model.texts)
    ask(model, image, QUESTION)
    assert "chinese" in vars(model.texts)


# -- answers and maps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["auto", "torch"])
def test_a_model_that_only_serves_says_the_same(folder: Path, dtype: str) -> None:
    whole, served = load(folder, dtype=dtype), load(folder, dtype=dtype)
    served.keep_what_serves()
    forgotten = [served.net.vision, served.net.text, served.detector]
    sizes = {parameter.numel() > 0 for module in forgotten if module for parameter in module.parameters()}
    assert sizes == {whole.image_networks.way == "torch"}
    maps: list[MapRequest | None] = [None, *(MapRequest(kind) for kind in served.info.map_kinds)]
    for text in ("is it a red cat?", QUESTION, "what is it?"):
        for asked in maps:
            found, expected = (ask(model, encode(model, noise())[0], text, maps=asked)[0] for model in (served, whole))
            near(found, expected)
    (found,), (expected,) = (ask(m, encode(m, noise())[0], "a cat", task="match") for m in (served, whole))
    near(found, expected)


@pytest.mark.parametrize("kind", ["raw", "gradient", "rollout"])
def test_every_chinese_word_has_its_map(model: CompactModel, kind: str) -> None:
    (image,) = encode(model, noise())
    text = "图里有冰淇淋吗？"
    (found,) = ask(model, image, text, maps=MapRequest(kind))  # type: ignore[arg-type]
    assert [word.text for word in found.words] == ["图里", "有", "冰淇淋", "吗"]
    for word in found.words:
        assert text[slice(*word.span)] == word.text
        assert word.tokens
        for token in word.tokens:
            values = found.tokens[token].map
            assert values is not None
            assert values.values.sum() + values.elsewhere == pytest.approx(1.0, abs=1e-4)


def test_answers_are_in_the_language_of_the_question(model: CompactModel) -> None:
    (image,) = encode(model, noise())
    chinese, english = ask(model, image, QUESTION, "What is this?", top_k=8)
    assert (chinese.language, english.language) == ("zh", None)
    assert {r.answer for r in chinese.ranking} == {"是", "不是", "猫", "狗", "红色", "1", "2"}
    assert all(r.english for r in chinese.ranking)
    assert all(r.english is None for r in english.ranking)


def test_which_questions_ask_whether_something_is_there() -> None:
    for text in ("有猫吗？", "图里有没有猫？", "照片里有汽车吗？", "桌上有几只猫在睡觉吗？"):
        assert asks_whether_there(text), text
    for text in ("这是猫吗？", "所有的猫都醒着吗？", "这是有机的吗？", "没有人吗？", "有几只猫？", "里面有什么？"):
        assert not asks_whether_there(text), text


@pytest.mark.parametrize(("question", "yes"), [("有猫吗？", "有"), ("图里有冰淇淋吗？", "有"), ("这是猫吗？", "是")])
def test_whether_something_is_there_is_answered_in_its_words(model: CompactModel, question: str, yes: str) -> None:
    (image,) = encode(model, noise())
    (found,) = ask(model, image, question, top_k=8)
    told = {r.answer: r.english for r in found.ranking}
    assert told[yes] == "yes"
    assert told["没有" if yes == "有" else "不是"] == "no"
    (chosen,) = ask(model, image, question, candidates=("有", "没有"))
    assert {(r.answer, r.in_vocabulary) for r in chosen.ranking} == {("有", True), ("没有", True)}


def test_what_is_one_answer_in_chinese_has_the_scores_of_both(model: CompactModel) -> None:
    (image,) = encode(model, noise())
    (english,) = ask(model, image, QUESTION, language="en", top_k=8)
    (chinese,) = ask(model, image, QUESTION, top_k=8)
    told = scores(english)
    assert scores(chinese)["红色"] == pytest.approx(told["red"] + told["blue"])
    assert [r.score for r in chinese.ranking] == sorted((r.score for r in chinese.ranking), reverse=True)
    assert sum(scores(chinese).values()) + chinese.rest == pytest.approx(1.0)  # type: ignore[operator]
    (short,) = ask(model, image, QUESTION, top_k=2)
    assert short.ranking == chinese.ranking[:2]
    assert short.rest == pytest.approx(1.0 - sum(r.score for r in short.ranking), abs=1e-6)


def test_the_request_chooses_the_language(model: CompactModel) -> None:
    (image,) = encode(model, noise())
    (own,) = ask(model, image, "What is this?", maps=MapRequest("raw"))
    (other,) = ask(model, image, "What is this?", language="zh", maps=MapRequest("raw"))
    assert other.language == "zh"
    assert own.answer_map is not None
    assert other.answer_map is not None
    np.testing.assert_array_equal(own.answer_map.values, other.answer_map.values)


def test_candidates_in_either_language(model: CompactModel) -> None:
    (image,) = encode(model, noise())
    (english,) = ask(model, image, "What is this?", candidates=("cat", "dog", "red"))
    (chinese,) = ask(model, image, "What is this?", candidates=("猫", "dog", " 红色"), language="zh")
    assert sorted(scores(english).values()) == pytest.approx(sorted(scores(chinese).values()))
    named = {ranked.answer: (ranked.english, ranked.in_vocabulary) for ranked in chinese.ranking}
    assert named == {"猫": ("cat", True), "dog": (None, True), " 红色": ("red", True)}
    (unknown,) = ask(model, image, QUESTION, candidates=("冰淇淋", "猫"))
    assert {ranked.answer: ranked.in_vocabulary for ranked in unknown.ranking} == {"冰淇淋": False, "猫": True}


def test_full_width_signs_change_no_answer(model: CompactModel) -> None:
    (image,) = encode(model, noise())
    plain, wide = ask(model, image, "What is this?", "What is this？", maps=MapRequest("raw"))
    assert plain.ranking == wide.ranking
    near(plain, wide)


def test_a_text_that_no_encoder_reads_is_refused_by_what_is_read(model: CompactModel) -> None:
    (image,) = encode(model, noise())
    for text, told in (
        ("これは何ですか", "in Japanese"),
        ("Какого цвета?", "in another script"),
        ("鑫鑫鑫", "More than half"),
    ):
        (found,) = model.run("answer", [Item(image, ("what", text))])
        assert isinstance(found, ItemError)
        assert (found.code, found.index) == ("question_not_understood", 1)
        assert told in found.message
        assert "the model reads English and Chinese" in found.message
        assert found.detail is not None
        assert found.detail["languages"] == ["en", "zh"]


# -- the folder -------------------------------------------------------------------------------------------------------


def test_a_model_that_is_trained_on_keeps_its_chinese(model: CompactModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    again = load(tmp_path, dtype="float32")
    assert again.info.languages == ("en", "zh")
    assert again.info.revision.partition("+")[2] == model.info.revision.partition("+")[2]
    (image,), (same,) = encode(model, noise()), encode(again, noise())
    near(ask(again, same, QUESTION, maps=MapRequest("raw"))[0], ask(model, image, QUESTION, maps=MapRequest("raw"))[0])


def test_without_the_encoder_chinese_is_refused_and_answers_may_be_chinese(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.name not in (WEIGHTS, VOCABULARY):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    model, whole = load(tmp_path, dtype="float32"), load(folder, dtype="float32")
    assert (model.info.languages, model.info.answer_languages) == (("en",), ("en", "zh"))
    assert (whole.info.languages, whole.info.answer_languages) == (("en", "zh"), ("en", "zh"))
    assert model.info.revision != whole.info.revision
    assert model.info.revision.partition("+")[0] == whole.info.revision.partition("+")[0]
    (image,) = encode(model, noise())
    (found,) = model.run("answer", [Item(image, (QUESTION,))])
    assert isinstance(found, ItemError)
    assert found.message == "The text is in Chinese; the model reads English."
    assert ask(model, image, "what is this", language="zh")[0].language == "zh"
