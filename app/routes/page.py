"""The page at ``/``, its modules and the example images. All public: where a key is needed, the page asks for it."""

from __future__ import annotations

import hashlib
import json
import mimetypes
import re
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request, Response
from markdown_it import MarkdownIt
from starlette.exceptions import HTTPException

from model.question_kinds import FORMS, PATTERNS

router = APIRouter(include_in_schema=False)
documentation = APIRouter(include_in_schema=False)


class Folder:
    """The files of a folder, read when the server starts: where connections have taken every descriptor, a file that
    is opened for a request is a 500."""

    def __init__(self, path: Path, pattern: str = "*") -> None:
        self._files = {each.name: each.read_bytes() for each in path.glob(pattern) if each.is_file()}
        self._kinds = {name: mimetypes.guess_type(name)[0] or "application/octet-stream" for name in self._files}
        self._tags = {name: f'"{hashlib.sha256(data).hexdigest()[:32]}"' for name, data in self._files.items()}

    def response(self, name: str, request: Request, headers: dict[str, str]) -> Response:
        """One of them, or 304 to who has it.

        Raises: HTTPException 404.
        """
        data = self._files.get(name)
        if data is None:
            raise HTTPException(404)
        headers = {**headers, "ETag": self._tags[name]}
        known = request.headers.get("if-none-match", "")
        if self._tags[name] in (tag.strip().removeprefix("W/") for tag in known.split(",")):
            return Response(status_code=304, headers=headers)
        kind = self._kinds[name]
        if request.method == "HEAD":
            return Response(headers={**headers, "Content-Length": str(len(data))}, media_type=kind)
        return Response(data, headers=headers, media_type=kind)


_ROOT = Path(__file__).resolve().parents[2]
_WEB = Folder(_ROOT / "app" / "web")
_EXAMPLES = Folder(_ROOT / "examples")
_CARD = _ROOT / "model" / "weights" / "compact" / "README.md"
_KINDS = json.dumps({"kinds": PATTERNS, "forms": FORMS})
# That package is taken for these files alone.
_SWAGGER_UI = Folder(Path(str(files("fastapi_offline"))) / "static", "swagger-ui*")

HEADERS = {
    # Nothing but this server's own files; blob: is the image that the reader chose.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked again each time, answered 304 while unchanged
}
# Swagger UI's style sheet has its icons in data: addresses.
DOCS_HEADERS = HEADERS | {
    "Content-Security-Policy": HEADERS["Content-Security-Policy"].replace(
        "img-src 'self' blob:", "img-src 'self' data:"
    )
}


def _with_id(heading: re.Match[str]) -> str:
    return f'<h2 id="{heading[1].lower().replace(" ", "-")}">{heading[1]}</h2>'


def _card_page(path: Path) -> str | None:
    if not path.is_file():
        return None
    body = MarkdownIt("commonmark").enable("table").render(path.read_text("utf-8"))
    body = re.sub(r"<h2>(.*?)</h2>", _with_id, body)
    # Files of the repository, which are not served; the name of a link may go over two lines.
    body = re.sub(r'<a href="\.[^"]*">(.*?)</a>', r"\1", body, flags=re.DOTALL)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Model card</title>'
        '<link rel="icon" href="web/icon.svg" type="image/svg+xml">'
        '<link rel="stylesheet" href="web/card.css"></head>'
        f'<body><main><p><a href="./">crosslook</a></p>{body}</main></body></html>'
    )


_CARD_PAGE = _card_page(_CARD)


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    """The page."""
    return _file(_WEB, "index.html", request)


@router.api_route("/web/kinds.json", methods=["GET", "HEAD"])
async def kinds() -> Response:
    """The patterns that tell a question's kind and form, tried in order on it in lower case."""
    return Response(_KINDS, headers=HEADERS, media_type="application/json")


@router.api_route("/card", methods=["GET", "HEAD"])
async def card(request: Request) -> Response:
    """The default model's card, which is Markdown in the repository, to read.

    Raises: HTTPException 404 where the server has no default weights.
    """
    if _CARD_PAGE is None:
        raise HTTPException(404)
    return Response(b"" if request.method == "HEAD" else _CARD_PAGE, headers=HEADERS, media_type="text/html")


@router.api_route("/favicon.ico", methods=["GET", "HEAD"])
async def icon(request: Request) -> Response:
    """The icon, for what asks for it without having read a page (a browser that shows JSON or a PNG)."""
    return _file(_WEB, "icon.svg", request)


@router.api_route("/web/{name}", methods=["GET", "HEAD"])
async def part(name: str, request: Request) -> Response:
    """A module, style sheet or icon of the page."""
    return _file(_WEB, name, request)


@router.api_route("/examples/{name}", methods=["GET", "HEAD"])
async def example(name: str, request: Request) -> Response:
    """An example image."""
    return _file(_EXAMPLES, name, request)


@documentation.api_route("/docs", methods=["GET", "HEAD"])
async def docs(request: Request) -> Response:
    """The routes, to read and to try."""
    return _file(_WEB, "docs.html", request, DOCS_HEADERS)


@documentation.api_route("/docs/{name}", methods=["GET", "HEAD"])
async def docs_part(name: str, request: Request) -> Response:
    """A file of Swagger UI."""
    return _file(_SWAGGER_UI, name, request)


def _file(folder: Folder, name: str, request: Request, headers: dict[str, str] = HEADERS) -> Response:
    return folder.response(name, request, headers)
