"""How long the model takes: ``python -m benchmarks.model``.

One 640x480 JPEG (made from an example image), one process, two threads; medians over fifty runs. Prints a table with
the machine it ran on and appends it to ``benchmarks/results/model.md``.

* *decode*: JPEG to pixels of the original size, the service's intake without its checks; not part of the model time.
* *uncached*: preprocess, encode, and run the questions; *cached*: run them on the encoded image kept from before.
* *load*: a fresh process from its start until the model has answered once (imports, weights, first run), as the
  service's worker loads it; beside it the time of a fresh process that imports PyTorch and does nothing.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageOps

from benchmarks.machine import append_result, describe_machine, load_average, table

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "coffee.jpg"
QUESTIONS = (
    "What is in the cup?",
    "What color is the cup?",
    "How many cups are there?",
    "Is there a spoon?",
    "What is the cup standing on?",
    "Is the cup full?",
    "What is the table made of?",
    "What is next to the cup?",
)
AIMS = {"one question, uncached": 150.0, "one question, cached": 25.0, "load": 3000.0}  # milliseconds


def example_jpeg() -> bytes:
    """The example image as a 640x480 JPEG."""
    buffer = io.BytesIO()
    with Image.open(EXAMPLE) as image:
        ImageOps.fit(image.convert("RGB"), (640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def median_ms(repeats: int, action: Callable[[], object]) -> float:
    """The median time of ``action`` in milliseconds, after three runs that don't count."""
    times = []
    for repeat in range(-3, repeats):
        start = time.perf_counter()
        action()
        if repeat >= 0:
            times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def peak_mib() -> float:
    """The most memory that this process ever held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def measure(model_name: str, threads: int, repeats: int, started: float) -> dict[str, float]:
    """Everything, in a process that has done nothing else. ``started``: the wall-clock time at which it was spawned."""
    jpeg = example_jpeg()
    from app.engine.messages import Load
    from app.engine.worker import load
    from model.interface import EncodedImage, Item, MapRequest

    arguments = {"name": model_name, "device": "cpu", "threads": threads}
    model = load(Load("model.registry:load_model", arguments))
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")

    def encode() -> EncodedImage:
        return model.encode([model.info.preprocess(image)])[0]

    def ask(encoded: EncodedImage, count: int, maps: bool = False) -> None:
        request = MapRequest() if maps else None
        (output,) = model.run("answer", [Item(encoded, QUESTIONS[:count], maps=request)])
        if isinstance(output, Exception):
            raise output

    kept = encode()
    ask(kept, 1)
    loaded = 1000 * (time.time() - started)
    if repeats == 0:
        return {"load": loaded}
    result = {
        "decode": median_ms(repeats, lambda: Image.open(io.BytesIO(jpeg)).convert("RGB")),
        "preprocess": median_ms(repeats, lambda: model.info.preprocess(image)),
        "one question, uncached": median_ms(repeats, lambda: ask(encode(), 1)),
        "one question, cached": median_ms(repeats, lambda: ask(kept, 1)),
        "one question with its map, cached": median_ms(repeats, lambda: ask(kept, 1, maps=True)),
        "eight questions, uncached": median_ms(repeats, lambda: ask(encode(), 8)),
        "eight questions, cached": median_ms(repeats, lambda: ask(kept, 8)),
        "eight questions with their maps, uncached": median_ms(repeats, lambda: ask(encode(), 8, maps=True)),
    }
    peak = peak_mib()
    import torch

    from model.compact.image_networks import choose
    from model.compact.model import CompactModel

    if isinstance(model, CompactModel):
        pixels = torch.tensor(model.info.preprocess(image).values)[None]
        for dtype, name in (("int8", "ONNX Runtime, int8"), ("float32", "ONNX Runtime, float32"), ("torch", "PyTorch")):
            networks = choose(model.net.vision, None, model.net.config.size, ranges=model.ranges, dtype=dtype)
            with torch.no_grad():
                result[f"the image network: {name}"] = median_ms(repeats, lambda run=networks: run(pixels))  # type: ignore[misc]
    result |= {"image_bytes": float(kept.nbytes), "peak": peak, "load": loaded}
    return result


def in_fresh_process(model: str, threads: int, repeats: int) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.model", "--model", model, "--threads", str(threads)]
    command += ["--repeats", str(repeats), "--started", repr(time.time())]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def report(model: str, threads: int, repeats: int, figures: dict[str, float]) -> str:
    """The table, with what it was aimed at."""
    rows = [
        [name, f"{value:.1f} ms", f"< {AIMS[name]:.0f} ms" if name in AIMS else ""]
        for name, value in figures.items()
        if name not in ("image_bytes", "peak")
    ]
    ratio = figures["eight questions, uncached"] / figures["one question, uncached"]
    rows.append(["eight questions / one, uncached", f"{ratio:.2f}", "< 3"])
    rows.append(["peak memory of the process", f"{figures['peak']:.0f} MiB", ""])
    rows.append(["an encoded image, as cached", f"{figures['image_bytes'] / 2**20:.2f} MiB", ""])
    return (
        f"Model `{model}`, a 640x480 JPEG, {threads} threads, median of {repeats} ({load_average()}).\n"
        f"{describe_machine()}.\n\n" + table(["", "measured", "aim"], rows)
    )


def main() -> int:
    """Measure in fresh processes, print, and keep the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model", description="How long the model takes.")
    parser.add_argument("--model", default="compact", help="a model's name or its folder (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--print-only", action="store_true", help="don't append to benchmarks/results/model.md")
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)  # in the process that measures
    options = parser.parse_args()
    if options.started is not None:
        print(json.dumps(measure(options.model, options.threads, options.repeats, options.started)))
        return 0
    loads, imports = [], []
    for _ in range(5):
        loads.append(in_fresh_process(options.model, options.threads, 0)["load"])
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        imports.append(1000 * (time.perf_counter() - started))
    figures = in_fresh_process(options.model, options.threads, options.repeats)
    figures["load"] = statistics.median(loads)
    figures["`import torch` alone"] = statistics.median(imports)
    text = report(options.model, options.threads, options.repeats, figures)
    print(text)
    if not options.print_only:
        print(f"kept in {append_result('model', 'Model times', text).relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
