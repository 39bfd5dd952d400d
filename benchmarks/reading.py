"""How often a question for text is answered right, and what that costs: ``python -m benchmarks.reading --images DIR``.

DIR holds COCO photographs at full size; ``reading.jsonl`` has questions of our own about texts that a person can read
in them, written down before anything was asked. An answer is right where it is like one of ours (nine letters
of ten). Prints the answers, and the times of the first question for text about an image, of the second, and of others.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from time import perf_counter

import torch
from PIL import Image

from benchmarks.machine import describe_machine
from model.compact import model as compact
from model.compact.reading.choice import likeness
from model.interface import EncodedImage, Item, Output

RIGHT = 0.9
QUESTIONS = Path(__file__).with_name("reading.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = compact.load(id="compact")
    rows = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    times: dict[str, list[float]] = {"encode": [], "another question": [], "first reading": [], "second reading": []}

    def timed(name: str, image: EncodedImage, question: str) -> Output:
        start = perf_counter()
        (output,) = model.run("answer", [Item(image, (question,))])
        times[name].append(perf_counter() - start)
        assert isinstance(output, Output), output
        return output

    right, false_stops = 0, 0
    for row in rows:
        opened = Image.open(options.images / row["image"]).convert("RGB")
        start = perf_counter()
        (image,) = model.encode([model.info.preprocess(opened)])
        times["encode"].append(perf_counter() - start)
        timed("another question", image, "What color is the sky?")
        best = timed("first reading", image, row["question"]).texts[0].ranking[0]
        timed("second reading", image, row["question"])
        good = any(likeness(best.answer, answer) >= RIGHT for answer in row["answers"])
        right += good
        false_stops += best.answer.lower() == "stop" and not good and best.score > 0.5
        print(f"| {row['image']} | {row['question']} | {row['answers'][0]} | {best.answer} | {best.score:.0%} | "
              f"{'right' if good else 'wrong'} |")  # fmt: skip
    print(f"\n{right} of {len(rows)} right; wrong *stop* over 50%: {false_stops}. {describe_machine()}")
    for name, found in times.items():
        rest = found[1:] if name == "first reading" else found  # the first of all loads the networks
        print(f"{name}: median {1000 * statistics.median(rest):.0f} ms, first {1000 * found[0]:.0f} ms")


if __name__ == "__main__":
    main()
