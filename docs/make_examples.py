"""Write docs/examples.md and its images from a running server, through the command `crosslook ask --map`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
QUESTIONS = {
    "cat": ["What animal is this?", "What color is the cat?", "Is the cat sleeping?", "Where is the cat looking?"],
    "coffee": ["What is in the cup?", "What color is the cup?", "How many cups are there?", "Is there a spoon?"],
    "rocket": ["What is in the sky?", "Is it day or night?", "How many rockets are there?", "What color is the smoke?"],
}
HEAD = """# What the default model answers, and where it looked

Three of the images of [examples/](../examples/CREDITS.md), asked with `crosslook ask --map`; made by
`scripts/examples`, answers and maps as they came, right or wrong. The large panel is the map that the answer was read
from, the small ones those of the question's words. How to read a map, and what it is worth, is in [maps.md](maps.md).
"""


def main(url: str) -> int:
    folder = ROOT / "docs" / "examples"
    folder.mkdir(exist_ok=True)
    parts = [HEAD]
    for name, questions in QUESTIONS.items():
        parts.append(f"## {name}\n")
        for number, question in enumerate(questions, 1):
            target = folder / f"{name}-{number}.jpg"
            command = [sys.executable, "-m", "crosslook.cli", "ask", f"examples/{name}.jpg", question]
            command += ["--map", str(target), "--url", url]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
            said = "\n".join(line for line in done.stdout.splitlines() if str(target) not in line).rstrip()
            parts.append(f"**{question}**\n\n```text\n{said}\n```\n\n![{question}](examples/{target.name})\n")
    parts.append((folder / "forty.md").read_text(encoding="utf-8"))  # its answers: docs/make_forty.py
    (ROOT / "docs" / "examples.md").write_text("\n".join(parts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
