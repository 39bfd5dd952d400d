"""Answers and maps show themselves: in a notebook, at a REPL, on the image that they were asked about."""

from __future__ import annotations

import base64
import inspect
import io
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

import crosslook
from crosslook import results
from crosslook.core import AnswerOptions, MapOptions
from crosslook.drawn import NOTHING_READ
from crosslook.notebook import answer_html
from crosslook.results import Answer, read_answers, read_captions, read_matches
from crosslook.types import AnswerResponse, CaptionResponse, ImageRef, MatchResponse, QuestionKind
from tests.crosslook.conftest import Connect, golden
from tests.crosslook.test_client import Server


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    Image.new("RGB", (451, 300), (120, 120, 120)).save(path)
    return path


def answer(source: Any = None, **changes: Any) -> Answer:
    body = golden("answer_one")
    body["results"][0] |= changes
    return read_answers(AnswerResponse.model_validate(body), None, source)[0]


def test_a_short_repr() -> None:
    assert repr(answer()) == "Answer('yes', score=0.83, question='Is this a kitty-cat?')"
    assert repr(answer().for_word("kitty-cat")) == "AttentionMap('kitty-cat', 2 x 3 cells, strongest at x=226 y=263)"
    (match, *_) = read_matches(MatchResponse.model_validate(golden("match")), None)
    (caption, *_) = read_captions(CaptionResponse.model_validate(golden("caption")), None)
    assert repr(match).startswith(f"Match({match.text!r}, score=")
    assert repr(caption).startswith(f"Caption({caption.caption!r}, score=")


def test_doubt() -> None:
    def measured(kind: str, right: float) -> dict[str, Any]:
        return {"reliability": {"kind": kind, "right": right, "count": 40}}

    near = [{"answer": "yes", "score": 0.4}, {"answer": "no", "score": 0.31}]
    assert not answer().unsure
    for kind in get_args(QuestionKind):
        assert [answer(**measured(kind, right)).unsure for right in (0.59, 0.6)] == [True, False]
    assert answer(ranking=near).unsure
    assert answer(ranking=near, **measured("other", 0.9)).unsure
    assert not answer(ranking=near, score_over="sequence").unsure
    for text in NOTHING_READ:
        assert not answer(answer=text, score_over="text", **measured("reading", 0.2)).unsure
    assert answer(answer="no text found", **measured("reading", 0.2)).unsure, "which the image may say"
    assert "not sure: <b>yes</b>" in (answer(np.zeros((300, 451, 3), np.uint8), ranking=near)._repr_html_() or "")


def sources(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    return {
        "path": path,
        "name": str(path),
        "bytes": data,
        "file": io.BytesIO(data),
        "PIL": image,
        "array": np.asarray(image),
        "data URI": "data:image/png;base64," + base64.b64encode(data).decode(),
    }


@pytest.mark.parametrize("kind", ["path", "name", "bytes", "file", "PIL", "array", "data URI"])
def test_maps_know_the_image_they_were_asked_about(connect: Connect, picture: Path, kind: str) -> None:
    source = sources(picture)[kind]
    found = connect(Server()).answer(source, "Is this a kitty-cat?")
    if kind == "file":
        source.close()
    expected = np.asarray(found.map.overlay(picture))
    for drawn in (found.overlay(), found.map.overlay(), found.overlay(picture)):
        assert (np.asarray(drawn) == expected).all()
    word = np.asarray(found.overlay(word="kitty-cat", legend=False))
    assert (word == np.asarray(found.for_word("kitty-cat").overlay(picture, legend=False))).all()
    assert (word != expected).any()
    assert found == replace(found, source=None), "what was passed is no part of the answer"


@pytest.mark.parametrize("image", ["http://127.0.0.1/a.png", ImageRef(id="img_1", width=451, height=300)])
def test_an_image_that_is_not_here_has_to_be_named(connect: Connect, image: Any, picture: Path) -> None:
    server = Server()
    server.known.add("img_1")
    found = connect(server).answer(image, "Is this a kitty-cat?")
    with pytest.raises(ValueError, match="name it"):
        found.overlay()
    assert found.overlay(picture).size == (451, 300)
    assert found._repr_html_() is found._repr_png_() is found.map._repr_png_() is None


def test_html_has_the_image_every_map_and_every_word(picture: Path) -> None:
    found = answer(picture, reliability={"kind": "yes/no", "right": 0.8, "count": 40})
    html = found._repr_html_()
    assert html is not None
    assert re.findall(r'<span class="w w(\d)" tabindex="0">([^<]+)</span>', html) == [
        ("1", "Is"), ("2", "this"), ("3", "a"), ("4", "kitty-cat"),
    ]  # fmt: skip
    assert "<b>yes</b> 83.0%; when it was tested, 80% of such answers were right" in html
    assert "then no 10.0%" in html
    images = [base64.b64decode(each) for each in re.findall(r"base64,([^\"]+)", html)]
    photograph, *masks = (Image.open(io.BytesIO(each)) for each in images)
    masks = [mask.convert("RGBA") for mask in masks]
    assert photograph.format == "JPEG"
    assert photograph.size == (451, 300)
    assert len(masks) == 5
    x, y, _ = found.map.peak()
    alpha = np.asarray(masks[0].getchannel("A"))
    row, column = int(y / 300 * alpha.shape[0]), int(x / 451 * alpha.shape[1])
    assert alpha[row, column] < 60 < 150 < alpha.max(), "dark where it did not look"
    assert masks[0].getpixel((column, row))[0] > 200, "and light where it did"
    assert len(html) < 60_000
    assert html != found._repr_html_(), "each cell has styles of its own"


def test_html_says_plainly_that_no_text_was_found(picture: Path) -> None:
    seldom = {"kind": "reading", "right": 0.2, "count": 25}
    nothing = {"answer": "no text found", "ranking": [{"answer": "no text found", "score": 0.04}], "score_over": "text"}
    html = answer(picture, reliability=seldom, **nothing)._repr_html_()
    assert html is not None
    assert "<br><b>no text found</b><br>" in html


def test_html_says_what_is_not_in_the_image_and_does_not_spot_it(picture: Path) -> None:
    off = {"values": [[0.01, 0.02, 0.0], [0.0, 0.01, 0.0]], "elsewhere": 0.96}
    assert "not in the image" not in (answer(picture)._repr_html_() or "")
    html = answer(picture, answer_map=off)._repr_html_() or ""
    assert "then no 10.0%<br>96% of its map is not in the image</small>" in html
    found = re.findall(r"png;base64,([^\"]+)", html)
    mask, *others = (Image.open(io.BytesIO(base64.b64decode(each))).convert("RGBA") for each in found)
    assert mask.getchannel("A").getextrema()[1] < 60
    assert all(each.getchannel("A").getextrema()[1] > 150 for each in others)
    body = golden("answer_one")
    body["results"][0]["question_tokens"][1]["map"] = off
    html = read_answers(AnswerResponse.model_validate(body), None, picture)[0]._repr_html_() or ""
    assert "not in the image" not in (answer(picture, answer_map=off, score_over="sequence")._repr_html_() or "")
    written = {field: golden("answer_several")["results"][2][field] for field in ("answer_tokens", "answer_words")}
    chosen = answer(picture, answer_map=off, score_over="candidates", **written)._repr_html_() or ""
    assert "not in the image" not in chosen, "a model that writes"
    read = answer(picture, answer_map=off, score_over="text")._repr_html_() or ""
    assert "not in the image" not in read, "where a text stands is no look"
    assert re.findall(r'title="([^"]+)">([^<]+)<', html) == [("96% of its map is not in the image", "Is")]


def test_html_escapes_what_others_wrote(picture: Path) -> None:
    html = answer(picture, question="Is <b>this</b> a kitty-cat?", answer="<script>", question_words=[])._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_pictures_of_answers_and_maps(picture: Path) -> None:
    found = answer(picture)
    for data in (found._repr_png_(), found.map._repr_png_()):
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "PNG"


def test_without_pillow_or_the_file_it_is_text(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = answer(picture)
    picture.unlink()
    assert answer_html(found) is None
    monkeypatch.delitem(sys.modules, "crosslook.overlay", raising=False)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert found._repr_png_() is None


def test_show_opens_the_sheet(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(Image.Image, "show", lambda self, title=None: shown.append((self.size, title)))
    answer(picture).show()
    answer().show(picture)
    assert [title for _, title in shown] == ["Is this a kitty-cat? yes"] * 2
    assert shown[0][0][0] >= 640


def test_options_are_named_where_help_is_asked_for() -> None:
    for client in (crosslook.Client, crosslook.AsyncClient):
        names = list(inspect.signature(client.answer).parameters)
        assert set(names[3:]) == AnswerOptions.__annotations__.keys() | MapOptions.__annotations__.keys()
        assert list(inspect.signature(client.match).parameters)[3:] == ["maps", "map_kind", "layers", "model"]
    assert "candidates: answer with one of these" in (inspect.getdoc(crosslook.Client.answer) or "")
    assert results.Result.overlay.__doc__
