"""The prefix that a reverse proxy strips from paths, put back: what is made of a path (a redirect) must have it."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class Prefixed:
    """Middleware, the innermost: paths begin with ``root_path``, as ASGI has it, whether the proxy left it or not."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; see ASGI."""
        prefix, path = scope.get("root_path", "").rstrip("/"), scope.get("path", "")
        if prefix and not f"{path}/".startswith(f"{prefix}/"):
            scope["path"] = prefix + path
            if scope.get("raw_path") is not None:
                scope["raw_path"] = prefix.encode() + scope["raw_path"]
        await self.app(scope, receive, send)
