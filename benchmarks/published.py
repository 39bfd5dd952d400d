"""The first and the second question about an image: a published model here, and the same one in transformers.

    python -m benchmarks.published [--model FOLDER] [--threads N] [--device cuda] [--repeats N] [--append]
    python -m benchmarks.published --family mllama [--tokens N] ...

Both sides have the same weights, preprocessing included, three beams, and answers of at most ``--max-new-tokens``
tokens; what they say is checked to be the same. Without ``--model`` the weights are random, at the configuration of
``Salesforce/blip-vqa-base``: speed does not depend on them, but for where answers end, so their length is fixed.
Runs of the two sides take turns, so that a busy machine slows both.

``--family`` measures one of the families with a language model in its place (see `benchmarks.published_cases`): answers
of ``--tokens`` tokens, written greedily, against `generate` with its written-out (eager) and its fused (SDPA)
attention; and with maps, which there means eager with ``output_attentions``. transformers keeps nothing of an image, so
its first question stands for any.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.machine import append_result, describe_machine, load_average, table
from benchmarks.published_cases import CASES, Case
from model.interface import Generation, Item, MapRequest, TextOutput, Written
from model.published.blip.answer import BlipAnswer
from model.published.loading import load
from tests.model.published import checkpoints

QUESTIONS = ("what is the color of the cat?", "how many are there in this photo?")


def main() -> None:
    """Measure, print, and append to the results where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a BLIP for questions; random weights where absent")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--max-new-tokens", type=int, default=3, help="of an answer, its end included")
    parser.add_argument("--family", choices=CASES, help="a family with a language model, in place of BLIP")
    parser.add_argument("--tokens", type=int, default=20, help="of an answer, with --family")
    parser.add_argument("--seconds", type=float, default=None, help="with --family: begin no turn after so many")
    parser.add_argument("--append", action="store_true", help="append to benchmarks/results/published.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.model or Path(scratch)
        if options.family is not None:
            text = measure_writing(folder, CASES[options.family], options)
        else:
            if options.model is None:
                checkpoints.published_blip("answer", folder)
            text = measure(folder, options)
    print(text)
    if options.append:
        append_result("published", "Published models", text)


def measure(folder: Path, options: argparse.Namespace) -> str:
    """The table, and what it was measured on."""
    ours = load(folder, id="blip", device=options.device, dtype=options.dtype)
    assert isinstance(ours, BlipAnswer)
    ours.decoder.max_tokens = options.max_new_tokens
    theirs = transformers.BlipForQuestionAnswering.from_pretrained(folder, dtype=ours.dtype).to(options.device)
    size = theirs.config.vision_config.image_size
    processor = checkpoints.image_processor("Blip", size={"height": size, "width": size})
    image = checkpoints.make_image(640, 480)

    def ask_them(question: str) -> str:
        pixels = processor(image, return_tensors="pt")["pixel_values"].to(options.device, ours.dtype)
        ids = ours.tokenizer.hub(question, return_tensors="pt")["input_ids"].to(options.device)
        if ours.encode_id is not None:
            ids[:, 0] = ours.encode_id  # as it should be, and as ours does
        made = theirs.generate(ids, pixels, num_beams=3, max_new_tokens=options.max_new_tokens)
        return ours.tokenizer.decode(made[0])

    def see() -> Any:
        return ours.encode([ours.info.preprocess(image)])[0]

    def ask(kept: Any, question: str, maps: MapRequest | None = None) -> Any:
        return ours.run("answer", [Item(kept, (question,), maps=maps)])[0].texts[0]  # type: ignore[union-attr]

    kept = see()
    for question in QUESTIONS:
        found, expected = ask(kept, question).ranking[0].answer, ask_them(question)
        assert found == expected or options.dtype != "float32", (found, expected)
    cases: dict[str, Callable[[], object]] = {
        "first question, transformers": lambda: ask_them(QUESTIONS[0]),
        "first question, crosslook": lambda: ask(see(), QUESTIONS[0]),
        "second question, transformers": lambda: ask_them(QUESTIONS[1]),
        "second question, crosslook": lambda: ask(kept, QUESTIONS[1]),
        "second question with raw maps": lambda: ask(kept, QUESTIONS[1], MapRequest("raw")),
        "second question with rollout maps": lambda: ask(kept, QUESTIONS[1], MapRequest("rollout")),
        "second question with gradient maps": lambda: ask(kept, QUESTIONS[1], MapRequest("gradient")),
    }
    seconds = take_turns(cases, options.repeats, options.device)
    base = {"first": "first question, transformers", "secon": "second question, transformers"}
    rows = []
    for name, times in seconds.items():
        middle = statistics.median(times)
        against = statistics.median(seconds[base[name[:5]]]) / middle
        rows.append([name, f"{1000 * middle:.1f}", f"{1000 * min(times):.1f}", f"{against:.2f}x"])
    what = "random weights at the size of blip-vqa-base" if options.model is None else str(options.model.name)
    notes = (
        f"BLIP for questions, {what}, {options.dtype} on {options.device}, {options.threads} threads, three beams, at "
        f"most {options.max_new_tokens} tokens, {options.repeats} runs in turns. An encoded image takes "
        f"{kept.nbytes / 1e6:.1f} MB.\n\n{describe_machine()}; transformers {transformers.__version__}; "
        f"{load_average()}\n\n"
    )
    return notes + table(["", "median ms", "best ms", "against transformers"], rows)


def measure_writing(folder: Path, case: Case, options: argparse.Namespace) -> str:
    """The table of one family that writes, and what it was measured on."""
    case.save(folder)
    ours: Any = load(folder, id="ours", device=options.device, dtype=options.dtype)
    case.never_end(ours)  # every answer has its full length
    theirs = getattr(transformers, case.kind).from_pretrained(folder, dtype=ours.net.dtype).to(options.device).eval()
    for part in (theirs, getattr(theirs, "language_model", theirs)):
        part.generation_config.eos_token_id = None
    image = checkpoints.make_image(*case.image)
    count = options.tokens
    firsts: dict[str, list[float]] = {}

    def ask_them(attention: str, question: str, *, maps: bool = False, name: str = "") -> list[int]:
        theirs.set_attn_implementation(attention)
        first = _FirstToken()
        inputs = case.inputs(ours, ours.info.preprocess(image), question)
        more = {"output_attentions": True, "return_dict_in_generate": True} if maps else {}
        settings = {"do_sample": False, "max_new_tokens": count, "min_new_tokens": count, "logits_processor": [first]}
        made = theirs.generate(**inputs, **settings, **more)
        firsts.setdefault(name, []).append(first.seconds)
        ids: list[int] = (made.sequences if maps else made)[0, -count:].tolist()
        return ids

    def see() -> Any:
        return ours.encode([ours.info.preprocess(image)])[0]

    def ask(kept: Any, question: str, maps: MapRequest | None = None, *, name: str = "") -> TextOutput:
        start, first = time.perf_counter(), 0.0
        kept = see() if kept is None else kept
        item = Item(kept, (question,), maps=maps, generation=Generation(max_new_tokens=count))
        writing, join = ours.writing(), [(0, "answer", item)]
        while True:
            found = writing.advance(join, ())[0]
            join, first = [], first or time.perf_counter() - start
            if not isinstance(found, Written):
                raise TypeError(found)
            if found.output is not None:
                firsts.setdefault(name, []).append(first)
                text: TextOutput = found.output.texts[0]
                return text

    kept, layers = see(), MapRequest("raw")
    cases: dict[str, Callable[[str], object]] = {
        "transformers eager": lambda name: ask_them("eager", QUESTIONS[0], name=name),
        "transformers SDPA": lambda name: ask_them("sdpa", QUESTIONS[0], name=name),
        "transformers eager, with attentions": lambda name: ask_them("eager", QUESTIONS[0], maps=True, name=name),
        "crosslook, first question": lambda name: ask(None, QUESTIONS[0], name=name),
        "crosslook, first question, with maps": lambda name: ask(None, QUESTIONS[0], layers, name=name),
        "crosslook, second question": lambda name: ask(kept, QUESTIONS[1], name=name),
        "crosslook, second question, with maps": lambda name: ask(kept, QUESTIONS[1], layers, name=name),
    }
    named: dict[str, Callable[[], object]] = {
        name: lambda name=name, run=run: run(name)  # type: ignore[misc]
        for name, run in cases.items()
    }
    with torch.no_grad():
        answer = ours.tokenizer.hub.decode(ask_them("sdpa", QUESTIONS[1]), skip_special_tokens=True)
        agreed = ask(kept, QUESTIONS[1]).ranking[0].answer == answer.strip()
        seconds = take_turns(named, options.repeats, options.device, warm=False, limit=options.seconds)
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    turns = len(seconds["transformers SDPA"])
    rows = []
    for name, taken in middle.items():
        first = statistics.median(firsts[name])
        ratio = middle["transformers SDPA"] / taken
        rate = (count - 1) / (taken - first)
        rows.append([name, f"{1000 * first:.0f}", f"{1000 * taken:.0f}", f"{rate:.1f}", f"{ratio:.2f}x"])
    size = sum(parameter.numel() for parameter in ours.net.parameters())
    costs = {
        which: middle[f"crosslook, {which} question, with maps"] / middle[f"crosslook, {which} question"] - 1
        for which in ("first", "second")
    }
    notes = (
        f"{case.what}: {size / 1e6:.0f}M random weights, {options.dtype} on {options.device}, {options.threads} "
        f"threads, an image of {case.image[0]} x {case.image[1]} pixels, {count} tokens greedily, "
        f"{turns} run{'s' if turns > 1 else ''} in turns. Both sides say {'the same' if agreed else 'OTHER words'}. "
        f"An encoded image takes {kept.nbytes / 1e6:.1f} MB. Maps of all tokens cost {100 * costs['first']:.0f}% of a "
        f"first question, {100 * costs['second']:.0f}% of a second.\n\n"
        f"{describe_machine()}; transformers {transformers.__version__}; {load_average()}\n\n"
    )
    head = ["", "first token, ms", "all tokens, ms", "tokens a second, after the first", "against SDPA"]
    return notes + table(head, rows)


class _FirstToken(transformers.LogitsProcessor):  # type: ignore[misc]
    """Changes nothing; ``seconds`` from when it was made until the first token's logits were there."""

    def __init__(self) -> None:
        self._start, self.seconds = time.perf_counter(), 0.0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.seconds = self.seconds or time.perf_counter() - self._start
        return scores


def take_turns(
    cases: dict[str, Callable[[], object]],
    repeats: int,
    device: str,
    *,
    warm: bool = True,
    limit: float | None = None,
) -> dict[str, list[float]]:
    """Seconds of each case, ``repeats`` times in turns, after one run of each that does not count where they are to be
    made ``warm``. No turn but the first begins after ``limit`` seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    began = time.perf_counter()
    for turn in range(repeats + warm):
        if turn > warm and limit is not None and time.perf_counter() - began > limit:
            break
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if turn >= warm:
                seconds[name].append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
