"""`crosslook ask` with many images: which they are, what is written, and how it goes on after an end."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from crosslook.batch import Progress, find_images, is_image, read_questions
from crosslook.cli import main
from tests.crosslook.test_cli import Handler, server

__all__ = ["server"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four images in a folder and one below it, and something else."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("b.png", "a.jpg", "c.PNG", "more/d.webp"):
        Image.new("RGB", (451, 300), "grey").save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_what_is_an_image(photos: Path) -> None:
    assert all(map(is_image, ["-", "http://a/b", "data:image/png;base64,", "missing.jpg", str(photos / "notes.txt")]))
    assert not any(map(is_image, ["What is this?", "a.b", "x" * 5000, "is it\0?"]))


def test_folders_and_patterns(photos: Path) -> None:
    found = find_images([str(photos), str(photos / "*.jpg")])
    assert [Path(name).name for name in found] == ["a.jpg", "b.png", "c.PNG", "d.webp"]
    assert [Path(name).name for name in find_images([str(photos / "*.png")])] == ["b.png"]
    with pytest.raises(FileNotFoundError, match="no image in"):
        find_images([str(photos / "none*")])


def test_questions_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "q.txt"
    file.write_text("﻿What is it?\n\n  这是什么？ \n", "utf-8")
    assert read_questions(file) == ["What is it?", "这是什么？"]
    file.write_text("\n")
    with pytest.raises(ValueError, match="has no question"):
        read_questions(file)


def test_two_images_and_a_question(server: str, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [str(photos / "a.jpg"), str(photos / "b.png")]
    assert main(["ask", *images, "What?", "Who?", "--url", server]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        images[0],
        "What?",
        "Who?",
        images[1],
        "What?",
        "Who?",
    ]
    assert [asked["questions"] for asked in Handler.asked] == [["What?", "Who?"]] * 2


def test_json_lines_and_csv(server: str, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["ask", "--images", str(photos), "Is this a kitty-cat?", "--url", server]
    assert main([*arguments, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(row["image"]).name for row in rows] == ["a.jpg", "b.png", "c.PNG", "d.webp"]
    assert rows[0]["answer"] == "yes"
    assert rows[0]["ranking"] == [["yes", 0.83], ["no", 0.1]]
    assert all(asked["maps"] == "none" for asked in Handler.asked)
    assert main([*arguments, "--csv"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["answer"], row["score"], row["then"]) for row in table] == [("yes", "0.83", "no")] * 4


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_it_goes_on_where_it_was_left(server: str, photos: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "q.txt").write_text('What?\nWho, or\twhat, is "it"?\n')
    out = tmp_path / f"answers.{kind}"
    arguments = ["ask", "--images", str(photos), "--questions", str(tmp_path / "q.txt"), "--out", str(out)]
    assert main([*arguments, "--url", server]) == 0
    whole = out.read_bytes()
    assert len(Handler.asked) == 4
    lines = whole.splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:-3]) + lines[-3][:-9])  # ended within a row
    assert main([*arguments, "--url", server, "--resume"]) == 0
    assert out.read_bytes() == whole
    assert sorted((asked["questions"] for asked in Handler.asked[4:]), key=len) == [  # at once, so in any order
        ['Who, or\twhat, is "it"?'],
        ["What?", 'Who, or\twhat, is "it"?'],
    ]
    assert main([*arguments, "--url", server, "--resume"]) == 0
    assert len(Handler.asked) == 6, "nothing is left"


def test_what_fails_is_said_and_tried_again(
    server: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "b.png").unlink()
    out = tmp_path / "answers.json"
    images = [str(photos / name) for name in ("a.jpg", "b.png", "c.PNG", "more/d.webp")]
    arguments = ["ask", *images, "What?", "--url", server, "--out", str(out)]
    assert main(arguments) == 1
    told = capsys.readouterr().err.splitlines()
    assert told == [f"crosslook: {images[1]}: No such file or directory", f"crosslook: 3 answers written to {out}"]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [bool(row["error"]) for row in rows] == [False, True, False, False]
    Image.new("RGB", (451, 300), "grey").save(photos / "b.png")
    assert main([*arguments, "--resume"]) == 0
    assert json.loads(out.read_text().splitlines()[-1])["answer"] == "yes"


def test_a_file_that_holds_something_else(
    server: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "notes.json"
    out.write_text('["no row"]\n')
    assert main(["ask", str(photos / "a.jpg"), "What?", "--url", server, "--out", str(out), "--resume"]) == 1
    assert "does not hold answers as json" in capsys.readouterr().err


def test_no_server_ends_it_at_once(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "--images", str(photos), "What?", "--url", "http://127.0.0.1:9", "--json"]) == 1
    assert capsys.readouterr().err.count("No server answers") == 1


@pytest.mark.parametrize("tqdm", [True, False])
def test_progress_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tqdm: bool
) -> None:
    if not tqdm:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    with Progress(3) as progress:
        progress.step()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress(3) as progress:
        for _ in range(3):
            progress.step()
    assert "3/3" in capsys.readouterr().err
