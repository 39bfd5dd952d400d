"""What the operator sees, and what nobody may see."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from PIL import Image

from app.auth import make_key
from app.engine.stages import Stages
from app.intake import bodies
from app.logs import JSONFormatter, TextFormatter
from app.streaming import Followed
from app.tracing import Tracer, tracer
from tests.app.conftest import encoded, running
from tests.app.engine.tools import source
from tests.app.servers import serving
from tests.app.test_native import as_json, failed

IMAGE = encoded(Image.new("RGB", (20, 20), (1, 2, 3)))
SECRET = "is this my secret document?"


async def test_an_image_that_is_still_decoded_is_not_kept_yet() -> None:
    """The gauge counts what could be used."""
    async with running() as (app, client):
        loading = asyncio.create_task(app.state.engine.run("answer", source(delay=0.3), ["a?"]))
        await asyncio.sleep(0.1)
        assert "crosslook_cache_images 0.0" in (await client.get("/metrics")).text
        await loading
        assert "crosslook_cache_images 1.0" in (await client.get("/metrics")).text


def test_workers_log_as_the_server_does(tmp_path: Path) -> None:
    """Every line is one JSON object, also a worker's traceback."""
    with serving(tmp_path / "log", log_format="json") as server, server.client() as client:
        body = as_json(IMAGE, "!raise")
        assert client.post("/v1/answer", json=body).status_code == 500
        lines = server.log.read_text().splitlines()
    entries = [json.loads(line) for line in lines if not line.startswith(("crosslook is up", "Try: "))]  # for people
    (fault,) = [entry for entry in entries if entry["logger"] == "app.engine.model_runner"]
    assert "told to" in fault["exception"]


async def test_metrics_count_what_happened() -> None:
    """Requests, errors by code, cache, batches and gauges, after a known sequence."""
    async with running(body_bytes=2000) as (_, client):
        await client.post("/v1/answer", json=as_json(IMAGE, "a?", "b?"))
        await client.post("/v1/answer", json=as_json(IMAGE, "c?"))
        await client.post("/v1/answer", json=as_json(b"nothing", "c?"))
        await client.get("/no/such/route")
        await client.get("/v1/models/stand-in")
        await client.post("/v1/answer", content=b"x" * 3000, headers={"content-type": "application/json"})
        text = (await client.get("/metrics")).text
    for line in (
        'crosslook_requests_total{route="/v1/answer",status="200"} 2.0',
        'crosslook_requests_total{route="/v1/answer",status="415"} 1.0',
        'crosslook_requests_total{route="/v1/answer",status="413"} 1.0',
        'crosslook_requests_total{route="/v1/models/{model_id}",status="200"} 1.0',
        'crosslook_requests_total{route="other",status="404"} 1.0',
        'crosslook_errors_total{code="unsupported_image"} 1.0',
        'crosslook_cache_requests_total{result="hit"} 1.0',
        'crosslook_cache_requests_total{result="miss"} 1.0',
        'crosslook_batches_total{kind="encode",reason="full"} 1.0',
        'crosslook_batch_size_sum{kind="run"} 3.0',
        'crosslook_stage_seconds_count{stage="run"} 2.0',
        "crosslook_queue_items 0.0",
        "crosslook_cache_images 1.0",
        "crosslook_cache_bytes 1000.0",
        "crosslook_workers_ready 1.0",
        "crosslook_ready 1.0",
        "crosslook_images_encoded_total 1.0",
    ):
        assert line in text.splitlines(), line
    assert "process_resident_memory_bytes" in text


async def test_logs_name_requests_and_never_what_was_asked(caplog: pytest.LogCaptureFixture) -> None:
    """One line a request with its id; no question, no image, not even where the model fails."""
    caplog.set_level(logging.DEBUG)
    async with running(log_level="debug") as (_, client):
        headers = {"X-Request-ID": "find-me"}
        assert (await client.post("/v1/answer", json=as_json(IMAGE, SECRET), headers=headers)).status_code == 200
        failed(
            await client.post("/v1/answer", json=as_json(IMAGE, "xyzzy " + SECRET)),
            "question_not_understood",
            "questions[0]",
        )
        failed(await client.post("/v1/answer", json=as_json(IMAGE, "!raise " + SECRET)), "internal_error")
    lines = [json.loads(JSONFormatter().format(record)) for record in caplog.records]
    assert SECRET not in json.dumps(lines)
    access = next(line for line in lines if line.get("request_id") == "find-me")
    assert access["logger"] == "crosslook.access"
    assert (access["method"], access["path"], access["status"]) == ("POST", "/v1/answer", 200)
    assert access["milliseconds"] > 0


async def test_the_log_names_the_key(caplog: pytest.LogCaptureFixture) -> None:
    """Its name, never the key itself; nothing where no key was accepted."""
    caplog.set_level(logging.DEBUG)
    key, pair = make_key("ann")
    async with running(api_keys=[pair]) as (_, client):
        for header in (f"Bearer {key}", "Bearer wrong"):
            await client.post("/v1/answer", json=as_json(IMAGE, "what?"), headers={"Authorization": header})
    lines = [json.loads(JSONFormatter().format(record)) for record in caplog.records]
    assert [line.get("key") for line in lines if line["logger"] == "crosslook.access"] == ["ann", None]
    assert key not in json.dumps(lines)


async def test_a_fault_of_our_own_has_the_one_shape_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An exception that nobody foresaw: 500, with the id under which the log has the reason."""
    async with running() as (app, client):

        @app.get("/broken")
        async def broken() -> None:
            raise KeyError("surprise")

        response = await client.get("/broken")
        body = failed(response, "internal_error")
        assert "surprise" not in response.text
        assert any(body.error.request_id in record.getMessage() for record in caplog.records if record.exc_info)


async def test_a_fault_is_logged_once_with_the_id_of_its_request(caplog: pytest.LogCaptureFixture) -> None:
    """However many tasks it passes through; one that requests share, once for each of them."""
    fault = KeyError("surprise")
    async with running() as (app, client):

        @app.get("/broken")
        async def broken(request: Request) -> None:
            async def work() -> None:
                await asyncio.sleep(0.01)
                raise fault

            await Followed.begin(lambda _: bodies.unless_gone(request, work()))  # type: ignore[arg-type,return-value]

        ids = [failed(await client.get("/broken"), "internal_error").error.request_id for _ in range(2)]
    lines = [json.loads(JSONFormatter().format(record)) for record in caplog.records if record.exc_info]
    assert [line["request_id"] for line in lines] == ids
    assert [line["message"] for line in lines] == [f"request {request_id} failed" for request_id in ids]
    assert all("KeyError" in line["exception"] for line in lines)


async def test_security_headers_and_cors() -> None:
    """On answers and errors alike; CORS only for those it is set for."""
    async with running(cors_origins=["https://example.org"]) as (_, client):
        for response in (await client.get("/health/live"), await client.get("/nope")):
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["x-frame-options"] == "DENY"
            assert "default-src 'none'" in response.headers["content-security-policy"]
        allowed = await client.get("/health/live", headers={"Origin": "https://example.org"})
        assert allowed.headers["access-control-allow-origin"] == "https://example.org"
        assert "X-Cache" in allowed.headers["access-control-expose-headers"]
        other = await client.get("/health/live", headers={"Origin": "https://example.com"})
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(
    "names",
    [
        "authorization,content-type",
        "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,x-stainless-retry-count",
        "content-type,traceparent,tracestate,user-agent",
        "content-type,x-session-id",
    ],
)
async def test_a_browsers_clients_may_send_headers_of_their_own(names: str) -> None:
    """From an allowed origin, and from the Internet to a server in a private network; from no other origin."""
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": names}
    asking["Access-Control-Request-Private-Network"] = "true"
    async with running(cors_origins=["https://example.org"]) as (_, client):
        allowed = await client.options("/v1/responses", headers=asking | {"Origin": "https://example.org"})
        assert allowed.status_code == 200
        said = {name.strip().lower() for name in allowed.headers["access-control-allow-headers"].split(",")}
        assert said >= set(names.split(","))
        assert allowed.headers["access-control-allow-private-network"] == "true"
        refused = await client.options("/v1/responses", headers=asking | {"Origin": "https://example.com"})
        assert refused.status_code == 400
        assert "access-control-allow-origin" not in refused.headers


async def test_readiness_tells_the_truth(service: tuple[FastAPI, httpx.AsyncClient]) -> None:
    """503 while no worker is ready and while the server drains."""
    async with running() as (app, client):
        engine = app.state.engine
        assert (await client.get("/health/ready")).json() == {"status": "ready"}
        for path in ("/health/live", "/health/ready", "/metrics"):
            assert (await client.head(path)).status_code == 200
        engine.draining = True
        failed(await client.get("/health/ready"), "shutting_down")
        assert (await client.head("/health/ready")).status_code == 503
        engine.draining = False
        engine.replicas[0].worker.kill()
        async with asyncio.timeout(5):
            while engine.ready:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        failed(await client.get("/health/ready"), "not_ready")
        assert (await client.get("/health/live")).status_code == 200


def test_spans_follow_the_stages() -> None:
    """One span a request under the caller's trace, one child a stage, times kept."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    stages = Stages()
    stages.add("decode", 10.0, 10.5)
    stages.add("run", 10.5, 10.75)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    attributes = {"http.response.status_code": 503}
    made = Tracer(provider)
    made.request("POST /v1/answer", start=9.9, stages=stages, attributes=attributes, headers={"traceparent": parent})
    spans = {span.name: span for span in exporter.get_finished_spans()}
    request = spans["POST /v1/answer"]
    assert set(spans) == {"POST /v1/answer", "decode", "run"}
    assert request.parent is not None
    assert format(request.context.trace_id, "032x") == parent.split("-")[1]
    assert spans["decode"].parent == request.context
    decode = spans["decode"]
    assert decode.start_time is not None
    assert decode.end_time is not None
    assert decode.end_time - decode.start_time == pytest.approx(0.5e9, rel=1e-3)
    assert not request.status.is_ok
    made.close()


async def test_traces_reach_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the standard variable set, a real OTLP request arrives at it; without, there is no tracer."""
    assert tracer() is None
    received: list[bytes] = []

    async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length"))
        body = await reader.readexactly(length)
        received.append(body)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(collect, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    async with server:
        async with running() as (_, client):
            assert (await client.post("/v1/answer", json=as_json(IMAGE, SECRET))).status_code == 200
            await asyncio.get_running_loop().run_in_executor(None, flush, client)
        async with asyncio.timeout(5):
            while not received:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    spans = [
        span
        for body in received
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert {"POST /v1/answer", "decode", "encode", "run"} <= {span.name for span in spans}
    assert SECRET.encode() not in b"".join(received)


def flush(client: Any) -> None:
    """Have the exporter send from another thread than the one that receives."""
    client._transport.app.state.tracers[0].flush()


FORGED = "/x\r\n2026-01-01 00:00:00,000 ERROR app.auth: forged\x1b[31m\u2028\u202e\x85\ud800 "


@pytest.mark.parametrize("formatter", [TextFormatter(), JSONFormatter()])
def test_a_log_record_is_one_line_whatever_a_client_sends(formatter: logging.Formatter) -> None:
    """In the message, in the fields and in a traceback: no line of it begins like a record, none moves the cursor."""
    try:
        raise ValueError(FORGED)
    except ValueError as error:
        caught = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("app", logging.INFO, "", 0, "%s", (FORGED,), caught)
    record.path = FORGED
    first, *rest = formatter.format(record).split("\n")
    assert "forged" in first
    assert all(line.isprintable() for line in (first, *rest))
    assert all(line.startswith("  | ") for line in rest)
    assert bool(rest) is isinstance(formatter, TextFormatter)
    plain = logging.LogRecord("app", logging.INFO, "", 0, "größer als 中文 %d", (1,), None)
    assert "größer als 中文 1" in formatter.format(plain)


def test_a_path_cannot_forge_a_line(tmp_path: Path) -> None:
    """Through the whole server, as text; a long one is cut."""
    with serving(tmp_path / "log", log_format="text") as server, server.client() as client:
        assert client.get("/x%0a2026-01-01%2000:00:00,000%20ERROR%20app.auth:%20forged%1b[31m").status_code == 404
        assert client.get("/" + "y" * 5000).status_code == 404
        lines = server.log.read_text().splitlines()
    (line,) = [line for line in lines if "forged" in line]
    assert "\\n2026" in line
    assert line.isprintable()
    assert max(map(len, lines)) < 1000
