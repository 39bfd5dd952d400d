"""``split_requirements.py ALL TORCH_WHEEL FOLDER``: one file of pinned requirements into those that the image installs.

``torch.txt`` has torch alone, also with the hash of the given wheel, which is not PyPI's; ``cuda.txt`` what that of
PyPI brings for GPUs; ``base.txt`` the rest.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

CUDA = re.compile(r"(nvidia|cuda)-|triton==")
ELSEWHERE = re.compile(r"sys_platform == '(win32|emscripten)'")


def split(text: str, torch_hash: str) -> dict[str, str]:
    """The files by name. ``text`` has entries of a pin and its hashes on indented lines."""
    files = {"base.txt": "", "torch.txt": "", "cuda.txt": ""}
    for entry in re.findall(r"(?m)^\S.*\n(?:^[ \t].*\n)*", text):
        if ELSEWHERE.search(entry):
            continue
        if entry.startswith("torch=="):
            files["torch.txt"] += f"{entry.rstrip()} \\\n    --hash=sha256:{torch_hash}\n"
        else:
            files["cuda.txt" if CUDA.match(entry) else "base.txt"] += entry
    return files


if __name__ == "__main__":
    everything, wheel, folder = map(Path, sys.argv[1:])
    head = "# Written by scripts/lock. Do not edit.\n"
    for name, content in split(everything.read_text(), hashlib.sha256(wheel.read_bytes()).hexdigest()).items():
        (folder / name).write_text(head + content)
