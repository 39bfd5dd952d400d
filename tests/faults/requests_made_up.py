"""Hostile requests over all routes, made from a seed: sizes, types, encodings, images and timing, sound ones among
them."""

from __future__ import annotations

import base64
import json
import random
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from tests.app.conftest import encoded
from tests.faults import hostile

PNG = encoded(Image.new("RGB", (24, 16), (9, 8, 7)))
TEXT = base64.b64encode(PNG).decode()
IMAGES = [*hostile.seeds().values()]
INFER = "/v2/models/stand-in/infer"

BODIES: dict[str, dict[str, Any]] = {
    "/v1/answer": {"image": TEXT, "questions": ["what?"], "candidates": ["a", "b"], "layers": [0], "maps": "u8"},
    "/v1/images": {"image": TEXT},
    "/v1/match": {"image": TEXT, "texts": ["a", "b"]},
    "/v1/caption": {"image": TEXT, "prompts": [""]},
    "/v1/overlay": {"image": TEXT, "question": "what?", "opacity": 0.5},
    "/v1/chat/completions": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what?"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{TEXT}"}},
                ],
            }
        ],
        "tools": [],
        "stream": True,
    },
    "/v1/responses": {"input": "what?", "instructions": "be brief", "include": []},
    "/": {"inputs": TEXT, "question": "what?", "parameters": {"top_k": 2}},
    "/v1/embeddings": {"input": ["a", {"image": TEXT}], "encoding_format": "base64"},
    INFER: {
        "inputs": [
            {"name": "image", "shape": [1], "datatype": "BYTES", "data": [TEXT]},
            {"name": "question", "shape": [2], "datatype": "BYTES", "data": ["a?", "b?"]},
        ],
        "parameters": {"maps": "float", "candidates": "a,b"},
        "outputs": [{"name": "answer"}],
    },
}
OTHERS = (
    "/health/live",
    "/health/ready",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/web/main.js",
    "/v1/models",
    "/v1/models/stand-in",
    "/v2",
    "/v2/health/ready",
    "/v2/models/stand-in/versions/1",
    "/no/route",
)


ODD_HEADERS = (
    *(b"Expect: 100-continue", b"Content-Encoding: gzip", b"Accept: application/x-npz", b"Accept: \xff"),
    *(b"Range: bytes=9-1", b"Content-Length: 7", b"Transfer-Encoding: chunked, identity", b"If-None-Match: *"),
    *(b"X-Forwarded-For: ' OR 1=1", b"X-Forwarded-Proto: javascript", b"traceparent: 00-x", b"X-Request-ID: a\x7f"),
    *(b"Origin: null", b"X-HTTP-Method-Override: DELETE", b": no name", b" folded", b"X\x00: y"),
    b"Cookie: " + b"a=b; " * 2000,
    b"Inference-Header-Content-Length: " + b"9" * 5000,
    b"Origin: http://y\r\nAccess-Control-Request-Method: GET",
)


@dataclass(frozen=True)
class Sent:
    """A request as bytes, in pieces with pauses (seconds) between; ``hang_up`` leaves without reading."""

    name: str
    pieces: tuple[bytes, ...]
    pause: float = 0.0
    hang_up: bool = False


def values(rng: random.Random) -> Any:
    """Something that does not belong where it is put."""
    size = rng.choice((1, 100, 10_000, 200_000))
    return rng.choice(
        (
            lambda: None,
            list,
            dict,
            lambda: rng.choice((0, -1, 10**30, 1e308, True, "", " ", "\ud800", "\u202e", "�")),
            lambda: "A" * size,
            lambda: " \n" * size,
            lambda: "data:;base64," + "%41" * size,
            lambda: [0] * size,
            lambda: ["a"] * size,
            lambda: [[]] * size,
            lambda: {f"k{n}": n for n in range(min(size, 20_000))},
            lambda: rng.choice(("http://xn--a/", "http://127.0.0.1/", "file:///etc/passwd", "http://[::1")),
            lambda: base64.b64encode(image(rng)).decode(),
        )
    )()


def image(rng: random.Random) -> bytes:
    """An image of any format, broken more often than not."""
    return hostile.mutated(rng.choice(IMAGES), rng, rng.choice((32, 200, 10**6)))


def mutated(body: Any, rng: random.Random) -> Any:
    """One place of a body changed, or a name added."""
    copy = json.loads(json.dumps(body))
    inner = copy
    while isinstance(inner, dict | list) and inner and rng.random() < 0.7:
        key = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
        if not isinstance(inner[key], dict | list) or rng.random() < 0.5:
            inner[key] = values(rng)
            return copy
        inner = inner[key]
    if isinstance(inner, dict):
        inner["x" * rng.choice((1, 100_000))] = values(rng)
    return copy


def request(rng: random.Random) -> Sent:
    """One of all kinds."""
    path = rng.choice([*BODIES, *OTHERS])
    body = BODIES.get(path)
    if body is None:
        content, kind = b"", ""
    elif rng.random() < 0.3:
        content, kind = form(body, rng)
    else:
        content = json.dumps(body if rng.random() < 0.2 else mutated(body, rng)).encode()
        kind = rng.choice(
            ("application/json",) * 8 + ("text/plain", "", "application/json; charset=utf-7", "image/png")
        )
        if rng.random() < 0.15:
            content = rng.choice(
                (content[:-3], content + b"x", b"\xff\xfe" + content, b"[" * 50_000, rng.randbytes(500))
            )
    method = b"POST" if body is not None else rng.choice((b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"CONNECT"))
    head = [b"%b %b HTTP/1.1" % (method, path.encode()), b"Host: x", b"Connection: close"]
    if kind:
        head.append(b"Content-Type: " + kind.encode())
    odd = rng.randrange(12)
    if odd == 0:
        head[2] = b"Connection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk"
    elif odd == 1:
        head += [b"X-%d: %b" % (n, b"a" * rng.choice((1, 1000))) for n in range(rng.choice((5, 90, 300)))]
    elif odd == 2:
        head.append(b"X-Request-Timeout: " + rng.choice((b"0.001", b"nan", b"1e999", b"-1")))
    elif odd == 3:
        head[0] = b"GET /%b HTTP/1.1" % (rng.choice((b"a", b"%0a", b"%ff", b"../")) * rng.choice((10, 2000, 5000)))
    elif odd == 4:
        head.append(b"Authorization: " + rng.choice((b"Bearer ", b"Basic x", b"Bearer " + b"\xff" * 900)))
    elif odd == 5:
        head.append(rng.choice(ODD_HEADERS))
    if path == INFER and rng.random() < 0.5:
        at = rng.choice((len(content), 0, 10**9, rng.randrange(len(content) + 1)))
        head.append(b"Inference-Header-Content-Length: %d" % at)
        content += rng.choice((b"", struct.pack("<I", len(PNG)) + PNG, bytes(40_000), rng.randbytes(100)))
    if body is not None and rng.random() < 0.2:
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in pieces(content, 700))
        trailers = b"a: b\r\n" * rng.choice((0, 1, 500))
        raw = b"\r\n".join([*head, b"Transfer-Encoding: chunked", b"", chunks + b"0\r\n" + trailers, b""])
    else:
        length = [b"Content-Length: %d" % (len(content) + rng.choice((0,) * 9 + (5,)))] if body is not None else []
        raw = b"\r\n".join([*head, *length, b"", content])
    slow = rng.random()
    if slow < 0.1:
        return Sent(path, tuple(pieces(raw[:200], 20)), 0.02, hang_up=True)
    if slow < 0.2:
        return Sent(path, tuple(pieces(raw, max(1, len(raw) // 5))), 0.01)
    if slow < 0.25:  # several ahead of their answers, which nobody reads
        return Sent(
            path, (raw.replace(b"Connection: close", b"Connection: x", 1) * rng.choice((2, 5, 30)),), 0.05, True
        )
    return Sent(path, (raw,), hang_up=slow > 0.95)


def form(body: dict[str, Any], rng: random.Random) -> tuple[bytes, str]:
    """A multipart body: sound fields, too many, or of odd heads."""
    fields = [(name.rstrip("s"), str(value)) for name, value in body.items() if name != "image"]
    fields += [("question", rng.choice(("what?", "", "[1,2]", '["a?", "\\ud800"]', "x" * 100_000)))] * rng.choice(
        (0, 1, 50, 1200)
    )
    head = 'Content-Disposition: form-data; name="{}"'
    parts = [head.format(name) + f"\r\n\r\n{value}\r\n" for name, value in fields]
    parts.append(head.format("image") + f'; filename="{rng.choice(("a.png", "../x", ""))}"\r\n\r\n')
    text = "".join(f"--B\r\n{part}" for part in parts).encode() + rng.choice((PNG, b"", rng.randbytes(300), image(rng)))
    return text + b"\r\n--B--\r\n", rng.choice(
        ("multipart/form-data; boundary=B",) * 8
        + ("multipart/form-data", "multipart/form-data; boundary=B" + ";" * 60_000)
    )


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """All of it."""
    return (data[start : start + size] for start in range(0, len(data), size))


def send(address: tuple[str, int], sent: Sent) -> bytes:
    """What the server says; empty where it says nothing, or nobody listens."""
    received = b""
    try:
        with socket.create_connection(address, timeout=20) as connection:
            for piece in sent.pieces:
                connection.sendall(piece)
                time.sleep(sent.pause)
            while not sent.hang_up and (data := connection.recv(1 << 16)):
                received += data
    except OSError:
        pass
    return received
