"""Ask a question about an image. Get the answer and, for every word, where the model looked.

with crosslook.Client("http://127.0.0.1:8080") as client:
    answer = client.answer("cat.jpg", "What animal is this?")
    print(answer.answer, answer.score, answer.for_word("animal").peak())
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crosslook import errors as errors
    from crosslook import types as types
    from crosslook.async_client import AsyncClient
    from crosslook.client import Client
    from crosslook.errors import APIError, CrosslookError
    from crosslook.images import ImageLike
    from crosslook.maps import AttentionMap, Peak
    from crosslook.results import Answer, Caption, Health, Match
    from crosslook.retry import RetryPolicy
    from crosslook.types import ImageRef

__version__ = "0.1.0"
__all__ = [
    "APIError",
    "Answer",
    "AsyncClient",
    "AttentionMap",
    "Caption",
    "Client",
    "CrosslookError",
    "Health",
    "ImageLike",
    "ImageRef",
    "Match",
    "Peak",
    "RetryPolicy",
    "__version__",
]

_HOMES = {
    "APIError": "errors",
    "Answer": "results",
    "AsyncClient": "async_client",
    "AttentionMap": "maps",
    "Caption": "results",
    "Client": "client",
    "CrosslookError": "errors",
    "Health": "results",
    "ImageLike": "images",
    "ImageRef": "types",
    "Match": "results",
    "Peak": "maps",
    "RetryPolicy": "retry",
}


def __getattr__(name: str) -> Any:
    """Exports are imported when first used: httpx and pydantic take a third of a second, the package itself nothing."""
    if name in ("errors", "types"):
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
