"""Chinese of English questions by forms, word alignment, and the distillation on a toy."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest

from model.compact.model import tiny
from model.training.chinese.align import Alignment
from model.training.chinese.pairs import OBJECTS, Pair, gather
from model.training.chinese.train import choose_pieces, main
from model.training.chinese.translate import Translator, plural


@pytest.fixture(scope="module")
def translator() -> Translator:
    return Translator(random.Random(0))


@pytest.mark.parametrize(
    ("english", "parts"),
    [
        ("What color is the cat?", ["猫", "颜色"]),
        ("What's on the table?", ["桌子上"]),
        ("How many zebras are in the picture?", ["斑马", "多少|几"]),
        ("Is the man's shirt red?", ["的(衬衫|上衣)", "红色的吗"]),
        ("What is the woman in the chair holding?", ["椅子", "拿"]),
        ("Is there ice cream in the photo?", ["照片里", "冰淇淋"]),
    ],
)
def test_questions_are_translated(translator: Translator, english: str, parts: list[str]) -> None:
    found = translator.translate(english)
    assert found is not None
    for part in parts:
        assert re.search(part, found), found


@pytest.mark.parametrize("english", ["What is the gizmo doing?", "Nothing fits this, does it?", "", "What"])
def test_what_no_form_or_word_fits_is_left(translator: Translator, english: str) -> None:
    assert translator.translate(english) is None


def test_plurals() -> None:
    assert [plural(word) for word in ("cat", "bench", "man", "teddy bear", "baby", "glasses")] == [
        "cats", "benches", "men", "teddy bears", "babies", "glasses",
    ]  # fmt: skip


def test_alignment_finds_who_stands_for_whom() -> None:
    pairs = [([10, 11], [20, 21]), ([10, 12], [20, 22]), ([13, 11], [23, 21]), ([13, 12], [22, 23])]
    found = Alignment(pairs)
    assert {zh: options[0][0] for zh, options in found.translations().items()} == {20: 10, 21: 11, 22: 12, 23: 13}
    shares = found.by_pair()
    assert [share.shape for share in shares] == [(2, 3)] * 4
    np.testing.assert_allclose(shares[0].sum(1), 1.0, rtol=1e-5)
    assert shares[3][0, 2] > 0.5  # 22 is 12, though it stands first


def toy_data(folder: Path) -> Path:
    questions = [
        {"image": "a.jpg", "question": text, "answers": ["cat"], "source": "vqa-v1", "split": split}
        for text, split in (("What color is the cat?", "train"), ("Is there a dog?", "train"), ("Where is it?", "dev"))
    ]
    (folder / "coco.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    (folder / "daquar.jsonl").write_text("")
    captions = {"image": "b.jpg", "captions": ["a dog", "a cat"], "split": "train", "source": "x"}
    (folder / "flickr8k.jsonl").write_text(json.dumps(captions) + "\n")
    (folder / "chinese").mkdir()
    chinese = {"image": "b.jpg", "split": "train", "people": [], "machine_of_captions": ["一只狗", ""]}
    (folder / "chinese" / "flickr8k.jsonl").write_text(json.dumps(chinese) + "\n")
    return folder


def test_pairs_are_of_the_train_split_alone(tmp_path: Path) -> None:
    found = gather(toy_data(tmp_path), made=20)
    assert {pair.english for pair in found if pair.kind == "question"} == {"What color is the cat?", "Is there a dog?"}
    assert [pair for pair in found if pair.kind == "caption"] == [Pair("a dog", "一只狗", "caption")]
    assert any(pair.kind == "made" for pair in found)
    words = {pair.english for pair in found if pair.kind == "word"}
    assert words.issuperset(line.split("\t")[0] for line in OBJECTS.read_text("utf-8").splitlines())


def test_the_vocabulary_has_every_character(tmp_path: Path) -> None:
    pairs = [Pair("ice cream", "冰淇淋", "word"), Pair("a dog", "一只狗 ok", "caption")]
    assert choose_pieces(pairs) == [*sorted("冰淇淋一只狗"), "冰淇淋"]


def test_training_comes_nearer_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    model, data, work = tmp_path / "model", tmp_path / "data", tmp_path / "work"
    tiny().save(model)
    data.mkdir()
    arguments = ["--data", str(toy_data(data)), "--work", str(work), "--model", str(model), "--every", "20"]
    arguments += ["--batch", "16", "--rate", "0.01"]
    lines: list[str] = []
    main([*arguments, "--steps", "20"], say=lines.append)
    main([*arguments, "--steps", "40"], say=lines.append)
    steps = [json.loads(line) for line in lines if line.startswith("{")]
    assert [one["step"] for one in steps] == [0, 20, 20, 40]
    assert sum(steps[-1]["held_out"]) < sum(steps[0]["held_out"])
    assert {file.name for file in (work / "weights").iterdir()} == {"chinese.safetensors", "chinese.txt"}
