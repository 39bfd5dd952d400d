"""The data format is read as docs/data.md says, wherever the images lie, and what is wrong is named by its line."""

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model.evaluation.data import Captions, DataError, ImageRef, Question, Statement, image_split, read_data

QUESTION = {"image": "a.png", "question": "What is it?", "answers": ["Two"], "source": "mine", "split": "dev"}


def png(colour: str, size: tuple[int, int] = (6, 4), **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG", **options)
    return buffer.getvalue()


def write_lines(path: Path, *records: object) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_tar(path: Path, mode: str = "w", **members: bytes) -> None:
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"./{name}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_a_tar_beside_its_records(tmp_path: Path) -> None:
    write_tar(tmp_path / "mine.tar", a=png("red"), b=png("blue"))
    write_lines(
        tmp_path / "mine.jsonl",
        QUESTION,
        {"image": "b.png", "captions": ["A wall.", "A blue wall."], "source": "mine", "split": "train"},
        {"image": "b.png", "statement": "The sky is above the wall.", "truth": True, "source": "vsr", "split": "train"},
    )
    data = read_data(tmp_path)
    a, b = ImageRef("mine.tar", "a.png"), ImageRef("mine.tar", "b.png")
    assert data.questions == [Question(a, "What is it?", ("Two",), "mine", "dev", "number")]
    assert data.captions == [Captions(b, ("A wall.", "A blue wall."), "mine", "train")]
    assert data.statements == [Statement(b, "The sky is above the wall.", True, "vsr", "train")]
    assert data.image_refs == [a, b]
    assert data.open_image(a).getpixel((0, 0)) == (255, 0, 0)
    assert data.open_image(b).getpixel((0, 0)) == (0, 0, 255)
    assert data.read_image(b) == png("blue")
    assert pickle.loads(pickle.dumps(data)).open_image(b).size == (6, 4)  # noqa: S301


def test_records_of_captions_about_one_image_are_one(tmp_path: Path) -> None:
    """Whatever file they are in, as long as they are of one split; the first of them says where it stands."""
    (tmp_path / "images").mkdir()
    for name in "ab":
        (tmp_path / "images" / f"{name}.png").write_bytes(png("red"))
    lines = [("a", "One.", "dev"), ("b", "Two.", "dev"), ("a", "Three.", "dev"), ("a", "Four.", "train")]
    write_lines(tmp_path / "x.jsonl", *({"image": f"{i}.png", "captions": [c], "split": s} for i, c, s in lines))
    write_lines(tmp_path / "y.jsonl", {"image": "a.png", "captions": ["Five.", "One."], "split": "dev"})
    a, b = ImageRef("images", "a.png"), ImageRef("images", "b.png")
    assert read_data(tmp_path).captions == [
        Captions(a, ("One.", "Three.", "Five.", "One."), "x + y", "dev"),
        Captions(b, ("Two.",), "x", "dev"),
        Captions(a, ("Four.",), "x", "train"),
    ]


@pytest.mark.parametrize(("folder", "archive"), [("mine", "mine"), ("images", "images"), ("", ".")])
def test_images_in_a_folder(tmp_path: Path, folder: str, archive: str) -> None:
    (tmp_path / folder / "deep").mkdir(parents=True)
    (tmp_path / folder / "deep" / "a.png").write_bytes(png("lime"))
    write_lines(tmp_path / "mine.jsonl", QUESTION | {"image": "deep/a.png"})
    data = read_data(tmp_path)
    assert data.questions[0].image_ref == ImageRef(archive, "deep/a.png")
    assert data.open_image(data.image_refs[0]).getpixel((0, 0)) == (0, 255, 0)


def test_source_and_split_may_be_left_out(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(300)]
    (tmp_path / "images").mkdir()
    for name in names:
        (tmp_path / "images" / name).write_bytes(b"")
    write_lines(
        tmp_path / "shop.jsonl",
        *({"image": name, "question": "How?", "answers": ["so"]} for name in names for _ in "ab"),
    )
    questions = read_data(tmp_path).questions
    assert {question.source for question in questions} == {"shop"}
    by_image: dict[str, set[str]] = {}
    for question in questions:
        by_image.setdefault(question.image_ref.name, set()).add(question.split)
    assert all(splits == {image_split(name)} for name, splits in by_image.items())
    share = sum(splits == {"dev"} for splits in by_image.values()) / len(names)
    assert 0.05 < share < 0.15


@pytest.mark.parametrize(("count", "sealed"), [(199, False), (300, True)])
def test_half_of_a_large_dev_is_sealed(tmp_path: Path, count: int, sealed: bool) -> None:
    (tmp_path / "images").mkdir()
    records = []
    for number in range(count):
        (tmp_path / "images" / f"{number}.png").write_bytes(b"")
        record = {"image": f"{number}.png", "question": "How?", "answers": ["so"], "split": "dev"}
        records += [record, record | {"split": "train", "image": "0.png"}]
    write_lines(tmp_path / "shop.jsonl", *records)
    splits = {q.image_ref.name: q.split for q in read_data(tmp_path).questions if q.split != "train"}
    share = sum(split == "seal" for split in splits.values()) / count
    assert 0.4 < share < 0.6 if sealed else share == 0


def test_images_come_out_upright_and_rgb(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to be upright
    (tmp_path / "a.png").write_bytes(png("red", exif=exif))
    Image.new("L", (3, 3), 7).save(tmp_path / "b.png")
    write_lines(tmp_path / "mine.jsonl", QUESTION, QUESTION | {"image": "b.png"})
    data = read_data(tmp_path)
    upright, grey = (data.open_image(ref) for ref in data.image_refs)
    assert (upright.size, upright.mode) == ((4, 6), "RGB")
    assert grey.getpixel((1, 1)) == (7, 7, 7)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"image": "a.png"}, "needs `question`"),
        (QUESTION | {"answers": []}, "`answers` must be a list"),
        (QUESTION | {"answers": "two"}, "`answers` must be a list"),
        (QUESTION | {"answers": ["two", " "]}, "`answers` must be a list"),
        (QUESTION | {"question": ""}, "`question` must be a text"),
        (QUESTION | {"split": 3}, "`split` must be a text"),
        (QUESTION | {"image": "c.png"}, "holds no image 'c.png'"),
        (QUESTION | {"image": "../a.png"}, "inside the data folder"),
        ({"image": "a.png", "statement": "It is so.", "truth": "yes"}, "`truth` must be true or false"),
        (["a.png"], "not a JSON object"),
    ],
)
def test_a_wrong_record_is_named_by_its_line(tmp_path: Path, record: object, message: str) -> None:
    (tmp_path / "a.png").write_bytes(png("red"))
    write_lines(tmp_path / "mine.jsonl", QUESTION, record)
    with pytest.raises(DataError, match=rf"mine\.jsonl, line 2: .*{message}"):
        read_data(tmp_path)


def test_wrong_folders_and_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        read_data(tmp_path / "missing")
    with pytest.raises(DataError, match=r"no \.jsonl"):
        read_data(tmp_path)
    (tmp_path / "mine.jsonl").write_text("{]\n")
    with pytest.raises(DataError, match="line 1: no JSON"):
        read_data(tmp_path)
    write_lines(tmp_path / "mine.jsonl", QUESTION)
    write_tar(tmp_path / "mine.tar", b=png("red"))
    with pytest.raises(DataError, match=r"mine\.tar holds no image"):
        read_data(tmp_path)
    write_tar(tmp_path / "mine.tar", "w:gz", a=png("red"))
    with pytest.raises(DataError, match="no uncompressed tar"):
        read_data(tmp_path)


def test_bytes_that_are_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png("red")[:40])
    write_lines(tmp_path / "mine.jsonl", QUESTION)
    data = read_data(tmp_path)
    with pytest.raises(DataError, match=r"a\.png"):
        data.open_image(data.image_refs[0])


@pytest.mark.parametrize(
    ("statement", "question"),
    [
        ("The cat is on top of the car.", "Is the cat on top of the car?"),
        ("The cows are next to the bus.", "Are the cows next to the bus?"),
        ("The bowl contains the banana.", "Is it true that the bowl contains the banana?"),
        ("A dog is near Anna", "Is a dog near Anna?"),
    ],
)
def test_a_statement_as_a_question(statement: str, question: str) -> None:
    ref = ImageRef("mine.tar", "a.png")
    made = Statement(ref, statement, False, "vsr", "train").as_question()
    assert made == Question(ref, question, ("no",), "vsr", "train", "yes/no")
