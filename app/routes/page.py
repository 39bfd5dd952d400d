"""The page at ``/``, its modules and the example images. All public: where a key is needed, the page asks for it."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.staticfiles import StaticFiles

router = APIRouter(include_in_schema=False)
documentation = APIRouter(include_in_schema=False)

_ROOT = Path(__file__).resolve().parents[2]
_WEB = StaticFiles(directory=_ROOT / "app" / "web")
_EXAMPLES = StaticFiles(directory=_ROOT / "examples")
_SWAGGER_UI = StaticFiles(packages=[("fastapi_offline", "static")])  # that package is taken for these files alone

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


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    """The page."""
    return await _file(_WEB, "index.html", request)


@router.api_route("/web/{name}", methods=["GET", "HEAD"])
async def part(name: str, request: Request) -> Response:
    """A module, style sheet or icon of the page."""
    return await _file(_WEB, name, request)


@router.api_route("/examples/{name}", methods=["GET", "HEAD"])
async def example(name: str, request: Request) -> Response:
    """An example image."""
    return await _file(_EXAMPLES, name, request)


@documentation.api_route("/docs", methods=["GET", "HEAD"])
async def docs(request: Request) -> Response:
    """The routes, to read and to try."""
    return await _file(_WEB, "docs.html", request, DOCS_HEADERS)


@documentation.api_route("/docs/{name}", methods=["GET", "HEAD"])
async def docs_part(name: str, request: Request) -> Response:
    """A file of Swagger UI."""
    return await _file(_SWAGGER_UI, name, request)


async def _file(folder: StaticFiles, name: str, request: Request, headers: dict[str, str] = HEADERS) -> Response:
    """A file of one folder, or its 304. Raises HTTPException 404."""
    response = await folder.get_response(name, request.scope)
    response.headers.update(headers)
    return response
