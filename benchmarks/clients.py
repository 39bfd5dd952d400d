"""What dialects and imports cost: ``python -m benchmarks.clients``.

* *dialects*: one question about one image that the server knows, no maps, one request at a time on one connection, the
  routes in turn; medians of the whole request and of what the server spends around the model. What a dialect adds over
  the native route is the difference.
* *imports*: processor seconds of ``import ...`` in a fresh interpreter, the least of several, less an empty one.

Prints tables with the machine they ran on and appends them to ``benchmarks/results/clients.md``.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.machine import append_result, describe_machine, load_average, table
from benchmarks.model import example_jpeg

ROOT = Path(__file__).resolve().parent.parent
QUESTION = "What is in the cup?"
IMPORTS = {
    "`import httpx, pydantic`": "import httpx, pydantic",
    "httpx and one pydantic model": "import httpx\nfrom pydantic import BaseModel\nclass One(BaseModel):\n    x: int",
    "`import crosslook`": "import crosslook",
    "`from crosslook import Client`": "from crosslook import Client",
}


@contextmanager
def server(model: str) -> Iterator[str]:
    """A server of its own on a free port."""
    environment = os.environ | {"CROSSLOOK_PORT": "0", "CROSSLOOK_MODEL": model, "CROSSLOOK_LOG_LEVEL": "warning"}
    with tempfile.TemporaryFile("w+") as output:
        command = [sys.executable, "-m", "app.cli", "serve"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            for _ in range(1200):
                output.seek(0)
                words = output.read().split()
                if "up:" in words:
                    yield words[words.index("up:") + 1]
                    return
                if process.poll() is not None:
                    break
                time.sleep(0.1)
            output.seek(0)
            raise RuntimeError("the server did not start: " + output.read())
        finally:
            process.terminate()
            process.wait(30)


def bodies(image: bytes, model: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """The same question in every dialect: name -> path and JSON."""
    text = base64.b64encode(image).decode()
    parts = [
        {"type": "text", "text": QUESTION},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{text}"}},
    ]
    return {
        "native": ("/v1/answer", {"image": text, "questions": [QUESTION], "maps": "none"}),
        "OpenAI": ("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": parts}]}),
        "Hugging Face": ("/", {"inputs": text, "question": QUESTION}),
    }


def dialects(model: str, repeats: int) -> str:
    """The table of dialects."""
    whole: dict[str, list[float]] = {}
    around: dict[str, list[float]] = {}
    with server(model) as url, httpx.Client(base_url=url, timeout=60) as client:
        requests = {
            name: (path, json.dumps(body).encode()) for name, (path, body) in bodies(example_jpeg(), model).items()
        }
        for repeat in range(-5, repeats):
            for name, (path, body) in requests.items():
                start = time.perf_counter()
                response = client.post(path, content=body, headers={"Content-Type": "application/json"})
                seconds = time.perf_counter() - start
                response.raise_for_status()
                if repeat < 0:
                    continue
                parts = dict(part.strip().split(";dur=") for part in response.headers["server-timing"].split(","))
                whole.setdefault(name, []).append(1000 * seconds)
                around.setdefault(name, []).append(float(parts["total"]) - float(parts["run"]))
    rows = [
        [
            name,
            f"{statistics.median(whole[name]):.2f}",
            f"{statistics.median(around[name]):.2f}",
            f"{statistics.median(whole[name]) - statistics.median(whole['native']):+.2f}",
        ]
        for name in whole
    ]
    return table(["dialect", "whole request, ms", "of it around the model, ms", "over native, ms"], rows)


def imports(repeats: int) -> str:
    """The table of imports."""
    code = "\nimport time; print(time.process_time())"

    def least(statement: str) -> float:
        runs = (
            subprocess.run([sys.executable, "-c", statement + code], capture_output=True, text=True, check=True)
            for _ in range(repeats)
        )
        return min(float(run.stdout) for run in runs)

    empty = least("pass")
    seconds = {name: least(statement) - empty for name, statement in IMPORTS.items()}
    first = next(iter(seconds.values()))
    return table(
        ["import", "processor time, ms", "ratio to the first"],
        [[name, f"{1000 * value:.0f}", f"{value / first:.2f}"] for name, value in seconds.items()],
    )


def main() -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--keep", action="store_true", help="append to benchmarks/results/clients.md")
    options = parser.parse_args()
    busy = load_average()
    text = f"{describe_machine()}; {busy}.\n\n{dialects(options.model, options.repeats)}\n{imports(15)}"
    print(text)
    if options.keep:
        append_result("clients", "What dialects and imports cost", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
