"""The first and the second question about an image: a published model here, and the same one in transformers.

    python -m benchmarks.published [--model FOLDER] [--threads N] [--device cuda] [--repeats N] [--append]
    python -m benchmarks.published --family mllama [--tokens N] ...

Both sides have the same weights, preprocessing included, three beams, and answers of at most ``--max-new-tokens``
tokens; what they say is checked to be the same. Without ``--model`` the weights are random, at the configuration of
``Salesforce/blip-vqa-base``: speed does not depend on them, but for where answers end, so their length is fixed.
Runs of the two sides take turns, so that a busy machine slows both.

``--family`` measures one of the families with a language model in its place (see `benchmarks.published_cases`): answers
of ``--tokens`` tokens, written greedily, against `generate` with its written-out (eager) and its fused (SDPA)
attention; and with maps, which there means eager with ``output_attentions``.
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
from model.interface import Generation, Item, MapRequest
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
    ours.ends = ()  # every answer has its full length
    theirs = {
        name: getattr(transformers, case.kind).from_pretrained(folder, dtype=ours.net.dtype, attn_implementation=name)
        for name in ("eager", "sdpa")
    }
    for net in theirs.values():
        net.to(options.device).eval()
        for part in (net, getattr(net, "language_model", net)):
            part.generation_config.eos_token_id = None
    image = checkpoints.make_image(640, 480)
    count, layers = options.tokens, MapRequest("raw")

    def ask_them(name: str, question: str, tokens: int, *, maps: bool = False) -> Any:
        prompt = ours._prompt("answer", question)
        inputs = case.inputs(ours, ours.info.preprocess(image), prompt.ids)
        more = {"output_attentions": True, "return_dict_in_generate": True} if maps else {}
        made = theirs[name].generate(**inputs, do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens, **more)
        return (made.sequences if maps else made)[0, -tokens:].tolist()

    def see() -> Any:
        return ours.encode([ours.info.preprocess(image)])[0]

    def ask(kept: Any, question: str, tokens: int, maps: MapRequest | None = None) -> Any:
        item = Item(kept, (question,), maps=maps, generation=Generation(max_new_tokens=tokens))
        return ours.run("answer", [item])[0].texts[0]

    kept = see()
    answer = ours.tokenizer.decode(ask_them("sdpa", QUESTIONS[1], count))
    agreed = ask(kept, QUESTIONS[1], count).ranking[0].answer == answer
    cases: dict[str, Callable[[], object]] = {}
    for name in theirs:
        cases[f"transformers {name}"] = lambda name=name: ask_them(name, QUESTIONS[0], count)
        cases[f"transformers {name}, first token"] = lambda name=name: ask_them(name, QUESTIONS[0], 1)
    cases["transformers eager, with attentions"] = lambda: ask_them("eager", QUESTIONS[0], count, maps=True)
    cases["crosslook, first question"] = lambda: ask(see(), QUESTIONS[0], count)
    cases["crosslook, first question, first token"] = lambda: ask(see(), QUESTIONS[0], 1)
    cases["crosslook, first question, with maps"] = lambda: ask(see(), QUESTIONS[0], count, layers)
    cases["crosslook, second question"] = lambda: ask(kept, QUESTIONS[1], count)
    cases["crosslook, second question, first token"] = lambda: ask(kept, QUESTIONS[1], 1)
    cases["crosslook, second question, with maps"] = lambda: ask(kept, QUESTIONS[1], count, layers)
    with torch.no_grad():
        seconds = take_turns(cases, options.repeats, options.device)
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    rows = []
    for name, taken in middle.items():
        first = f"{name}, first token"
        rate = f"{(count - 1) / (taken - middle[first]):.1f}" if first in middle else ""
        base = f"transformers sdpa{', first token' if name.endswith('first token') else ''}"
        rows.append([name, f"{1000 * taken:.0f}", rate, f"{middle[base] / taken:.2f}x"])
    size = sum(parameter.numel() for parameter in ours.net.parameters())
    cost = middle["crosslook, first question, with maps"] / middle["crosslook, first question"] - 1
    notes = (
        f"{case.what}: {size / 1e6:.0f}M random weights, {options.dtype} on {options.device}, {options.threads} "
        f"threads, {count} tokens greedily, {options.repeats} runs in turns. Both sides say "
        f"{'the same' if agreed else 'OTHER words'}. "
        f"An encoded image takes {kept.nbytes / 1e6:.1f} MB. Maps of all tokens cost {100 * cost:.0f}% of a first "
        f"question.\n\n{describe_machine()}; transformers {transformers.__version__}; {load_average()}\n\n"
    )
    head = ["", "median ms", "tokens a second, after the first", "against transformers with SDPA"]
    return notes + table(head, rows)


def take_turns(cases: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds of each case, after one run of each that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(repeats + 1):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
