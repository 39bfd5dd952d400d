"""The page's files: where they are, which headers they carry, that they fit together. tests/web drives it."""

from __future__ import annotations

import re
from typing import get_args

import httpx
import pytest

from app.routes.page import DOCS_HEADERS, HEADERS
from crosslook.drawn import NOTHING_READ
from crosslook.errors import CODES
from crosslook.types import MapKind
from model.compact.answer_words import READING_ANSWERS
from model.interface import QuestionForm
from model.question_kinds import FORMS, PATTERNS, QUESTION_KINDS
from tests.app.conftest import running
from tests.app.servers import ROOT

WEB = ROOT / "app" / "web"
FILES = sorted(path.name for path in WEB.iterdir())


@pytest.mark.parametrize("path", ["/", *(f"/web/{name}" for name in FILES), "/examples/cat.jpg"])
async def test_every_file_is_served_with_its_headers(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.status_code == 200
    for name, value in HEADERS.items():
        assert response.headers[name] == value
    again = await client.get(path, headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert (await client.head(path)).status_code == 200


@pytest.mark.parametrize("path", ["/web/none.js", "/web/..%2fmain.py", "/examples/none.jpg", "/web/"])
async def test_nothing_else_is(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(("headers", "images"), [(HEADERS, "blob:"), (DOCS_HEADERS, "data:")])
def test_the_policy_allows_this_server_alone(headers: dict[str, str], images: str) -> None:
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy.pop("default-src") == "'none'"
    assert policy.pop("img-src") == f"'self' {images}"
    assert set(policy.values()) <= {"'self'", "'none'"}


def test_nothing_is_inline_or_from_elsewhere() -> None:
    for page in WEB.glob("*.html"):
        html = page.read_text()
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)
    for name in FILES:
        addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+", re.sub(r"//.*", "", (WEB / name).read_text()))
        assert not [found for found in addresses if "w3.org" not in found]


def test_every_text_is_there_in_both_languages() -> None:
    source = (WEB / "i18n.js").read_text()
    names = [
        re.findall(r"(?:^|,)\s*(\w+): \"", re.search(rf"const {name} = {{(.*?)^}};", source, re.S | re.M)[1], re.M)
        for name in ("ENGLISH", "CHINESE")
    ]
    assert [len(each) for each in names] == [len(set(each)) for each in names], "no name is there twice"
    english, chinese = map(set, names)
    assert english == chinese
    html = (WEB / "index.html").read_text()
    asked = set(re.findall(r"data-i18n(?:-label|-placeholder)?=\"(\w+)\"", html))
    for script in WEB.glob("*.js"):
        asked |= set(re.findall(r"(?:\bt\(|\bkey: )\"(\w+)\"", script.read_text()))
    asked |= {f"{name}_{kind}" for kind in get_args(MapKind) for name in ("kind", "explain")}
    asked |= {f"off_{kind}" for kind in get_args(MapKind) if kind != "similarity"}
    asked |= {f"example_{path.stem}" for path in (ROOT / "examples").glob("*.jpg")}
    bad = {*QUESTION_KINDS, *get_args(QuestionForm)} - {"other"}
    asked |= {f"weak_{kind.replace('/', '_').replace(' ', '_')}" for kind in bad}
    assert asked <= english


def test_every_error_that_a_reader_may_meet_has_chinese_words() -> None:
    source = (WEB / "i18n.js").read_text()
    known = set(re.findall(r"(\w+): \"", re.search(r"const ERRORS = {(.*?)^};", source, re.S | re.M)[1]))
    never = {"malformed_request", "invalid_base64", "not_found", "model_not_found", "method_not_allowed"}
    never |= {
        "url_too_long",
        "head_too_large",
        "unsupported_media_type",
        "url_not_allowed",
        "url_fetch_failed",
        "too_many_questions",
    }
    assert set(CODES) - never <= known
    assert known - {"offline"} <= set(CODES)


def test_what_says_that_nothing_was_read_is_the_same_in_page_client_and_model() -> None:
    listed = re.search(r"const NOTHING = new Set\(\[(.*?)\]\)", (WEB / "doubt.js").read_text())[1]
    assert set(re.findall(r'"(.*?)"', listed)) == NOTHING_READ
    assert {*READING_ANSWERS, *READING_ANSWERS.values()} == NOTHING_READ


async def test_the_kinds_of_questions_are_those_of_the_model(client: httpx.AsyncClient) -> None:
    response = await client.get("/web/kinds.json")
    assert response.headers["Content-Type"] == "application/json"
    found = response.json()
    assert [tuple(row) for row in found["kinds"]] == list(PATTERNS)
    assert [tuple(row) for row in found["forms"]] == list(FORMS)


async def test_the_default_models_card_is_there_to_read(client: httpx.AsyncClient) -> None:
    response = await client.get("/card")
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]
    (link,) = re.findall(r'href="card#([^"]+)"', (await client.get("/")).text)
    assert f'<h2 id="{link}">What it is bad at</h2>' in response.text
    assert "<table>" in response.text
    assert re.findall(r'href="(?!https?:)([^"]*)"', response.text.split("</head>")[1]) == ["./"], (
        "a way back, and no other"
    )
    assert (await client.get("/web/card.css")).headers["Content-Type"] == "text/css; charset=utf-8"
    assert (await client.head("/card")).status_code == 200


async def test_the_icon_is_where_browsers_look_for_it(client: httpx.AsyncClient) -> None:
    response = await client.get("/favicon.ico")
    assert response.headers["Content-Type"] == "image/svg+xml"
    assert response.content == (WEB / "icon.svg").read_bytes()
    assert (await client.head("/favicon.ico")).status_code == 200
    assert '<link rel="icon" href="web/icon.svg"' in (await client.get("/card")).text


async def test_the_documentation_needs_no_network(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.headers["Content-Security-Policy"] == DOCS_HEADERS["Content-Security-Policy"]
    asked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {"docs/swagger-ui.css", "docs/swagger-ui-bundle.js", "web/docs.js", "openapi.json"} <= set(asked)
    for path in asked:
        assert (await client.get(f"/{path}")).status_code == 200
    assert (await client.get("/docs/none.js")).status_code == 404


async def test_the_documentation_can_be_left_out() -> None:
    async with running(docs=False) as (_, client):
        for path in ("/docs", "/docs/swagger-ui.css", "/openapi.json"):
            assert (await client.get(path)).status_code == 404
