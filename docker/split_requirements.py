"""``split_requirements.py ALL TORCH_WHEEL FOLDER``: one file of pinned requirements into those that the image installs.

``torch.txt`` has torch alone, also with the hash of the given wheel, which is not PyPI's; ``cuda.txt`` what that of
PyPI brings for GPUs; ``base.txt`` the rest. ``split_requirements.py --beyond ALL MORE FOLDER``: what MORE has and ALL
has not, in a file of the same name.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

CUDA = re.compile(r"(nvidia|cuda)-|triton==")
ENTRY = r"(?m)^\S.*\n(?:^[ \t].*\n)*"
ELSEWHERE = re.compile(r"sys_platform == '(win32|emscripten)'")


def split(text: str, torch_hash: str) -> dict[str, str]:
    """The files by name. ``text`` has entries of a pin and its hashes on indented lines."""
    files = {"base.txt": "", "torch.txt": "", "cuda.txt": ""}
    for entry in re.findall(ENTRY, text):
        if ELSEWHERE.search(entry):
            continue
        if entry.startswith("torch=="):
            files["torch.txt"] += f"{entry.rstrip()} \\\n    --hash=sha256:{torch_hash}\n"
        else:
            files["cuda.txt" if CUDA.match(entry) else "base.txt"] += entry
    return files


def beyond(known: str, more: str) -> str:
    """The entries of ``more`` for packages that ``known`` does not name."""
    names = {entry.partition("==")[0] for entry in re.findall(ENTRY, known)}
    return "".join(
        entry
        for entry in re.findall(ENTRY, more)
        if entry.partition("==")[0] not in names and not ELSEWHERE.search(entry)
    )


if __name__ == "__main__":
    head = "# Written by scripts/lock. Do not edit.\n"
    if sys.argv[1] == "--beyond":
        known, more, folder = map(Path, sys.argv[2:])
        (folder / more.name).write_text(head + beyond(known.read_text(), more.read_text()))
        sys.exit()
    everything, wheel, folder = map(Path, sys.argv[1:])
    for name, content in split(everything.read_text(), hashlib.sha256(wheel.read_bytes()).hexdigest()).items():
        (folder / name).write_text(head + content)
