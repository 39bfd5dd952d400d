"""A stand-in for the hub: serves folders over HTTP, as much as huggingface_hub asks."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """A running stand-in. ``repositories``: name -> folder; ``gated``: names that need ``token``."""

    repositories: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    token: str = "hf_secret"
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def environment(self, home: Path) -> dict[str, str]:
        """What points huggingface_hub here, with a cache of its own."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def answer(self, method: str, path: str, token: str | None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        self.asked.append(f"{method} {path}")
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        parts = parts[2:] if api else parts
        name, rest = "/".join(parts[:2]), parts[2:]
        folder = self.repositories.get(name)
        if folder is None:
            return self.error(401 if token is None else 404, "RepoNotFound")
        if name in self.gated and token != self.token:
            return self.error(403 if not api else 401, "GatedRepo")
        if len(rest) > 1 and rest[1] not in ("main", COMMIT):
            return self.error(404, "RevisionNotFound")
        if api and rest[:1] == ["tree"]:
            files = [
                {"type": "file", "path": str(f.relative_to(folder)), "size": f.stat().st_size, "oid": _etag(f)}
                for f in _files(folder)
            ]
            return self.json(files)
        if api:
            siblings = [{"rfilename": str(f.relative_to(folder))} for f in _files(folder)]
            return self.json({"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        file = folder / "/".join(rest[2:])
        if rest[0] != "resolve" or not file.is_file():
            return self.error(404, "EntryNotFound")
        headers = {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        return 200, headers, file.read_bytes()

    @staticmethod
    def json(value: Any) -> tuple[int, dict[str, str], bytes]:
        """A JSON answer."""
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()

    @staticmethod
    def error(status: int, code: str) -> tuple[int, dict[str, str], bytes]:
        """A refusal, with the header that huggingface_hub reads."""
        return status, {"X-Error-Code": code, "X-Error-Message": code}, b""


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _etag(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:40]


@contextmanager
def serve(**repositories: Path) -> Iterator[Hub]:
    """A hub with ``owner/NAME`` for each folder."""
    hub = Hub({f"owner/{name}": folder for name, folder in repositories.items()})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            status, headers, body = hub.answer(self.command, self.path, token)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
