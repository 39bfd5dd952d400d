"""Images for tests with several replicas, and what a replica's metrics say."""

from __future__ import annotations

import io
import re

import httpx
from PIL import Image


def made_image(number: int) -> bytes:
    """A small PNG, another for each number."""
    buffer = io.BytesIO()
    colour = (number % 251, number // 251 % 251, 7)
    Image.new("RGB", (40, 30), colour).save(buffer, "PNG")
    return buffer.getvalue()


def total(url: str, sample: str) -> float:
    """One figure of a server; 0 where it has none."""
    found = re.search(rf"(?m)^{re.escape(sample)} (\S+)$", httpx.get(f"{url}/metrics").text)
    return float(found[1]) if found else 0.0
