"""What the operator sees: a request id on everything, one log line per request, never an image or a question."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import RequestError, error_response
from app.logs import REQUEST_ID, log_fault
from app.metrics import Metrics
from app.tracing import Tracer

access = logging.getLogger("crosslook.access")
logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_LONGEST_PATH = 500  # characters in the log
CLIENT_GONE = 499  # what logs and metrics say where no answer could be sent

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
"""On every response that does not bring its own; pages that run scripts do."""


class Telemetry:
    """The outermost middleware: request id, security headers, total time, log, metrics, trace, last catch for errors.

    ``tracer`` holds the app's tracer, or nothing while there is none.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, tracer: list[Tracer]) -> None:
        self.app = app
        self.metrics = metrics
        self.tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; see ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        headers = Headers(scope=scope)
        request_id = _request_id(headers.get("x-request-id"))
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        REQUEST_ID.set(request_id)
        state["began"] = time.monotonic()
        status, code = 0, ""

        async def send_marked(message: Message) -> None:
            nonlocal status, code
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                code = out.get("x-error-code", "")
                out["X-Request-ID"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    out.setdefault(name, value)
                total = f"total;dur={1000 * (time.perf_counter() - start):.2f}"
                timing = out.get("server-timing")
                out["Server-Timing"] = f"{timing}, {total}" if timing else total
            await send(message)

        try:
            await self.app(scope, receive, send_marked)
        except ClientDisconnect:
            status = status or CLIENT_GONE
        except asyncio.CancelledError:
            if status or not _is_draining(scope):
                raise
            # The time to drain is over: uvicorn cancels what is left, and would answer with a plain 500.
            error = RequestError("shutting_down", "This server is shutting down.", retry_after=5.0)
            await error_response(error, request_id)(scope, receive, send_marked)
        except Exception as error:
            log_fault(logger, error)
            if status:
                raise  # half an answer is out: only closing the connection tells the client
            ours = RequestError("internal_error", "A fault of the server; its log knows the request id.")
            await error_response(ours, request_id)(scope, receive, send_marked)
        finally:
            self._finish(scope, headers, start, status, code)

    def _finish(self, scope: Scope, headers: Headers, start: float, status: int, code: str) -> None:
        seconds = time.perf_counter() - start
        route = getattr(scope.get("route"), "path", "") or "other"  # a bounded set, unlike the path
        route = route.replace(":path}", "}")  # that is Starlette's, for parameters with slashes
        request_id = scope["state"]["request_id"]
        path = scope["path"][:_LONGEST_PATH]
        self.metrics.finished(route, status, code, seconds)
        access.info(
            "%s %s %d",
            scope["method"],
            path,
            status,
            extra={
                "request_id": request_id,
                "method": scope["method"],
                "path": path,
                "status": status,
                "code": code or None,
                "key": scope["state"].get("caller") or None,
                "milliseconds": round(1000 * seconds, 2),
            },
        )
        for tracer in self.tracer:
            attributes = {
                "http.request.method": scope["method"],
                "http.route": route,
                "http.response.status_code": status,
                "crosslook.request_id": request_id,
            }
            stages = scope["state"].get("stages")
            name = f"{scope['method']} {route}"
            tracer.request(name, start=start, stages=stages, attributes=attributes, headers=dict(headers))


def _is_draining(scope: Scope) -> bool:
    engine = getattr(scope["app"].state, "engine", None)
    return engine is not None and bool(engine.draining)


def _request_id(given: str | None) -> str:
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return new_request_id()


def new_request_id() -> str:
    """An id for a request that brought none."""
    return f"req_{secrets.token_hex(16)}"
