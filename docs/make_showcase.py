"""Draws the three pictures at the head of README.md from a running server: ``python -m docs.make_showcase [URL]``."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from crosslook import Client

ROOT = Path(__file__).parents[1]
SHOWN = [("cat", "What animal is this?"), ("coffee", "What drink is this?"), ("raccoon", "What color are the leaves?")]
_SIZE = (400, 266)


def main(url: str) -> None:
    """Ask, draw each answer's map as a spotlight, and print what was answered."""
    with Client(url) as client:
        for name, question in SHOWN:
            answer = client.answer(ROOT / "examples" / f"{name}.jpg", question)
            drawn = answer.overlay(style="spotlight", opacity=0.8)
            scale = max(_SIZE[0] / drawn.width, _SIZE[1] / drawn.height)
            drawn = drawn.resize((round(drawn.width * scale), round(drawn.height * scale)), Image.Resampling.LANCZOS)
            left, top = (drawn.width - _SIZE[0]) // 2, (drawn.height - _SIZE[1]) // 2
            drawn = drawn.crop((left, top, left + _SIZE[0], top + _SIZE[1]))
            drawn.save(ROOT / "docs" / "images" / f"show-{name}.jpg", quality=85)
            print(f"{name}: {question} {answer} {answer.score:.0%}")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080")
