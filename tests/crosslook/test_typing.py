"""A user's program passes mypy --strict, and its mistakes do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import asyncio
from pathlib import Path

import numpy as np
from PIL import Image

import crosslook
from crosslook.errors import ImageRejected, RateLimited


def one(path: Path) -> tuple[str, float]:
    with crosslook.Client("http://127.0.0.1:8080", timeout=5) as client:
        answer = client.answer(path, "What animal is this?", top_k=3, maps="u8")
        reveal_type(answer)
        reveal_type(client.answer(np.zeros((4, 4, 3), np.uint8), ["a?", "b?"]))
        reveal_type(client.answer(Image.new("RGB", (4, 4)), "a?").map)
        reveal_type(client.ask_many([(b"", "a?"), (path, ["a?", "b?"])], errors="return"))
        with path.open("rb") as file:
            client.upload(file)
        where = answer.for_word("animal").peak()
        return answer.answer, where.x


async def several(client: crosslook.AsyncClient) -> list[str]:
    try:
        found = await client.ask_many([("a.jpg", "a?")], progress=lambda done, total: print(done / total))
    except RateLimited as error:
        await asyncio.sleep(error.retry_after or 1.0)
        return []
    except ImageRejected as error:
        return [error.code]
    return [answer.answer for answers in found for answer in answers]
"""

MISTAKES = """
import crosslook

client = crosslook.Client()
client.answer(3, "a?")
client.answer("a.jpg", "a?", maps="png")
client.answer("a.jpg", "a?", topk=3)
client.answer("a.jpg", ["a?"]).answer
client.match("a.jpg", "a cat")
"""


def mypy(folder: Path) -> list[str]:
    """What it says of the programs of a folder. Once for all of them: it takes longer to begin than to check."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", *sorted(map(str, folder.glob("*.py")))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr
    return done.stdout.splitlines()


def test_a_users_program(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "mistakes.py").write_text(MISTAKES)
    said = mypy(tmp_path)
    revealed = [line.partition('Revealed type is "')[2].rstrip('"') for line in said if "program.py" in line]
    assert revealed == [
        "crosslook.results.Answer",
        "list[crosslook.results.Answer]",
        "crosslook.maps.AttentionMap | None",
        "list[list[crosslook.results.Answer] | Exception]",
    ]
    errors = [line.rpartition("[")[2].rstrip("]") for line in said if "mistakes.py" in line and "error:" in line]
    assert errors == ["call-overload"] * 4 + ["attr-defined", "arg-type"]  # an unknown keyword counts twice
