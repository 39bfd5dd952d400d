"""Ask a question about an image. Get the answer and, for every word, where the model looked.

with crosslook.Client("http://127.0.0.1:8080") as client:
    answer = client.answer("cat.jpg", "What animal is this?")
    print(answer.answer, answer.score, answer.for_word("animal").peak())
"""

from crosslook.client import AsyncClient, Client
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
