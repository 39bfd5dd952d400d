"""Errors in the shape of a dialect."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class ErrorEnvelope:
    """Middleware: puts every error of one dialect's requests into its envelope, whoever raised it (limits, auth, a
    route). It must be outside of them all.

    ``ours`` tells whether a request (its ASGI scope) is of the dialect, ``wrap`` makes the body of what the native one
    has inside ``error``.
    """

    def __init__(
        self, app: ASGIApp, *, ours: Callable[[Scope], bool], wrap: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> None:
        self.app = app
        self.ours = ours
        self.wrap = wrap

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; see ASGI."""
        if scope["type"] != "http" or not self.ours(scope):
            await self.app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def translate(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and message["status"] >= 400:
                start = message
                return
            if start is None:
                await send(message)
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            content = self._wrapped(body)
            headers = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
            start["headers"] = [*headers, (b"content-length", str(len(content)).encode())]
            await send(start)
            await send({"type": "http.response.body", "body": content})

        await self.app(scope, receive, translate)

    def _wrapped(self, body: bytes) -> bytes:
        """What is no error in the native shape stays as it is: CORS refuses in plain text."""
        try:
            info = json.loads(body)["error"]
        except (ValueError, LookupError, TypeError):
            return body
        return json.dumps(self.wrap(info)).encode()
