"""Every setting of the server in one place: environment variables ``CROSSLOOK_*`` or a ``.env`` file.

The descriptions are what docs/operations.md prints; `tests/docs/test_operations.py` fails when the page has drifted.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from typing import Annotated, Literal

from dotenv import dotenv_values
from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.auth import Keys

MiB = 1024 * 1024


def _split(value: object) -> object:
    """Lists in the environment are separated by commas: ``a,b``."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


Words = Annotated[list[str], NoDecode]


class Settings(BaseSettings):
    """What an operator may choose. Bytes are bytes, times are seconds."""

    model_config = SettingsConfigDict(
        env_prefix="CROSSLOOK_", env_file=".env", extra="ignore", frozen=True, protected_namespaces=()
    )

    host: str = Field("127.0.0.1", description="Address to listen on; `0.0.0.0` for all.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    root_path: str = Field("", description="Path prefix that a reverse proxy strips.")
    forwarded_allow_ips: str = Field(
        "127.0.0.1", description="Proxies whose `X-Forwarded-*` headers are believed; `*` for any."
    )
    cors_origins: Words = Field(default_factory=list, description="Origins allowed by CORS, comma-separated; `*`: any.")

    model: str = Field("compact", description="Model to serve: `compact`, `tiny`, a folder or a hub name.")
    device: str = Field(
        "auto", description="`auto`, `cpu`, `cuda` or `cuda:N`. With several GPUs, `auto` and `cuda` use all of them."
    )
    kernel: Literal["auto", "triton", "blocked", "reference"] = Field(
        "auto",
        description="How cross-attention is computed: `triton` (CUDA), `blocked` (CPU), `reference` (any, slower) or "
        "`auto`, the fastest for the device. One that cannot run there stops the start with a message.",
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto",
        description="Precision. Published models: `auto` is float16 on a GPU, else float32. The default model's image "
        "networks: `auto` is int8 on a CPU that has the instructions (a line of the log says where not), else float32.",
    )
    allow_pickle: bool = Field(
        False, description="Read published weights that are pickled, not safetensors: only for models that you trust."
    )
    workers: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Worker processes, each with a model (which those of one thread on a CPU share); absent: one for "
        "each GPU; on a CPU, 2 where there are two cores.",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads of each worker; absent: cores / workers.")
    decode_threads: int | None = Field(
        None, ge=1, description="Images decoded at once, large ones aside; absent: one per core."
    )

    cache_bytes: int = Field(
        256 * MiB, ge=0, description="Encoded images kept, in bytes, over all workers; 0 keeps none."
    )
    cache_seconds: float = Field(3600.0, gt=0, description="How long an encoded image is kept after its last use.")
    encode_batch: int | None = Field(
        None, ge=1, description="Images encoded together at most; absent: 1 on a CPU (faster there), 8 on a GPU."
    )
    run_batch: int = Field(32, ge=1, description="Questions run together at most; a request of more runs in parts.")
    batch_wait: float = Field(
        0.002, ge=0, le=1, description="Longest wait for a batch to fill while other images are being decoded."
    )
    generation_tokens: int = Field(
        16384,
        ge=1,
        description="Tokens of questions and answers that are being written at once, at most; others wait. For models "
        "that write token by token.",
    )
    queue_items: int = Field(256, ge=1, description="Questions and images accepted and not yet answered, at most.")
    queue_bytes: int = Field(
        256 * MiB, ge=1, description="Bytes of request bodies held at once, at most; more is refused with 503."
    )
    queue_seconds: float = Field(
        10.0, gt=0, description="A request whose estimated wait exceeds this is refused with 503."
    )
    rate_per_minute: int = Field(
        0,
        ge=0,
        description="Questions (an upload counts as one, and so do 200 characters of candidates) a minute allowed to "
        "each API key; 0: no limit.",
    )
    rate_store: str = Field(
        "",
        repr=False,  # a password may be in it
        description="`redis://HOST:PORT/DB` of a Redis or Valkey where all replicas count that rate together (extra "
        "`redis`); empty: each counts for itself.",
    )

    body_bytes: int = Field(28 * MiB, ge=1024, description="Largest request body.")
    image_bytes: int = Field(20 * MiB, ge=1024, description="Largest encoded image (file size).")
    image_pixels: int = Field(50_000_000, ge=64, description="Most pixels of an image, read from its header.")
    image_side: int = Field(16_384, ge=8, description="Longest side of an image, in pixels.")
    image_min_side: int = Field(8, ge=1, description="Shortest side of an image, in pixels.")
    questions: int = Field(32, ge=1, le=1000, description="Questions in one request, at most.")
    question_characters: int = Field(1000, ge=1, description="Characters in one question, at most.")

    request_seconds: float = Field(
        30.0, gt=0, description="Deadline of a request; clients may ask for less with `X-Request-Timeout`."
    )
    header_seconds: float = Field(
        10.0, gt=0, description="A connection whose request's headers take longer to arrive is closed."
    )
    write_seconds: float = Field(
        10.0, gt=0, description="A client that reads less than 32 KiB a second of its answer for so long is hung up on."
    )
    connections: int = Field(1000, ge=1, description="Connections open at once, at most; more are closed at once.")
    worker_seconds: float = Field(
        60.0, gt=0, description="A worker that does not come on with its work for so long is killed."
    )
    load_seconds: float = Field(600.0, gt=0, description="Loading and warm-up that take longer have the worker killed.")
    drain_seconds: float = Field(30.0, gt=0, description="How long accepted requests may finish after SIGTERM.")

    allow_urls: bool = Field(False, description="Fetch images from URLs (public addresses only).")
    url_seconds: float = Field(10.0, gt=0, description="Time for one URL fetch, redirects included.")
    url_redirects: int = Field(3, ge=0, le=10, description="Redirects followed by one URL fetch.")
    url_allow_addresses: Words = Field(
        default_factory=list,
        description="Networks that URLs may reach although they are not public, comma-separated: `10.1.2.0/24`.",
    )

    api_keys: Words = Field(
        default_factory=list,
        description="`name:sha256-of-the-key` pairs, comma-separated (`crosslook-server key NAME` makes one); "
        "empty: no key is asked for.",
    )
    docs: bool = Field(True, description="Serve `/docs` and `/openapi.json`.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity logged.")
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="`text` or `json`, one object a line; `auto`: text on a terminal, JSON elsewhere."
    )

    @field_validator("cors_origins", "api_keys", "url_allow_addresses", mode="before")
    @classmethod
    def _lists(cls, value: object) -> object:
        return _split(value)

    @field_validator("api_keys")
    @classmethod
    def _keys(cls, value: list[str]) -> list[str]:
        Keys(value)
        return value

    @field_validator("url_allow_addresses")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for text in value:
            ipaddress.ip_network(text)
        return value

    @field_validator("body_bytes")  # validated after the other, which it is compared with
    @classmethod
    def _body_fits_the_queue(cls, value: int, others: ValidationInfo) -> int:
        if value > others.data.get("queue_bytes", value):
            raise ValueError(f"{value} is more than CROSSLOOK_QUEUE_BYTES: such a body would be refused for ever")
        return value

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
            raise ValueError(f"unknown device {value!r}; there are auto, cpu, cuda and cuda:N")
        return value


_OTHERS = ("CROSSLOOK_URL", "CROSSLOOK_API_KEY")  # the client's, who may share the environment


def unknown_variables() -> list[str]:
    """What to say of each variable in the environment or ``.env`` that looks like a setting and is none."""
    known = {f"CROSSLOOK_{name.upper()}" for name in Settings.model_fields} | {*_OTHERS}
    said = []
    for name in sorted({*os.environ, *dotenv_values(".env")}):
        if name.upper().startswith("CROSSLOOK_") and name.upper() not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.8)
            said.append(f"{name} is no setting" + (f"; did you mean {close[0]}?" if close else ""))
    return said
