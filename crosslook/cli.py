"""The command ``crosslook``: ask a server from a terminal."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import crosslook
from crosslook.client import Client
from crosslook.core import AnswerOptions
from crosslook.errors import APIError, CrosslookError
from crosslook.results import Answer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 1 after an error (which goes to stderr)."""
    for stream in (sys.stdout, sys.stderr):  # files and pipes of Windows have code pages, which lack most letters
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    parsed = parser.parse_args(arguments)
    try:
        return _ask(parsed)
    except APIError as error:
        found = f", request {error.request_id}" if error.request_id else ""
        _complain(f"{error} ({error.code}{found})")
    except CrosslookError as error:
        _complain(str(error))
    except ImportError as error:
        _complain(f"--map needs Pillow (pip install pillow): {error}")
    except (OSError, ValueError) as error:
        _complain(str(error))
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="crosslook", description="Ask questions about images.")
    parser.add_argument("--version", action="version", version=f"crosslook {crosslook.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    ask = commands.add_parser(
        "ask",
        help="ask about one image",
        description="Print each answer, its runners-up and, for every word, where the model looked most.",
    )
    ask.add_argument("image", metavar="IMAGE", help="a file, a URL or - for standard input")
    ask.add_argument("questions", metavar="QUESTION", nargs="+")
    ask.add_argument(
        "--map", metavar="FILE", type=Path, help="draw the maps into this file (with several questions: -1, -2, ..)"
    )
    ask.add_argument("--candidate", metavar="ANSWER", action="append", help="answer with one of these (repeat it)")
    ask.add_argument("--top-k", metavar="N", type=int, default=5, help="how many answers to print (5)")
    ask.add_argument("--language", metavar="CODE", help="answer in this language, such as zh; default: the question's")
    ask.add_argument(
        "--map-kind", choices=["raw", "gradient", "rollout", "similarity"], help="default: the model's own"
    )
    ask.add_argument(
        "--layer", metavar="N", type=int, action="append", help="average the maps of this fusion layer (repeat it)"
    )
    ask.add_argument("--url", help="the server; default: $CROSSLOOK_URL, else http://127.0.0.1:8080")
    ask.add_argument("--api-key", help="default: $CROSSLOOK_API_KEY")
    ask.add_argument("--timeout", metavar="SECONDS", type=float, default=60.0)
    return parser


def _ask(parsed: argparse.Namespace) -> int:
    image: str | bytes = sys.stdin.buffer.read() if parsed.image == "-" else parsed.image
    options = AnswerOptions(top_k=parsed.top_k)
    if parsed.candidate:
        options["candidates"] = parsed.candidate
    if parsed.language:
        options["language"] = parsed.language
    if parsed.map_kind:
        options["map_kind"] = parsed.map_kind
    if parsed.layer:
        options["layers"] = parsed.layer
    with Client(parsed.url, api_key=parsed.api_key, timeout=parsed.timeout) as client:
        answers = client.answer(image, parsed.questions, **options)
    for index, answer in enumerate(answers):
        _print(answer)
        if parsed.map:
            path = parsed.map if len(answers) == 1 else parsed.map.with_stem(f"{parsed.map.stem}-{index + 1}")
            _draw(image, answer, path)
            print(f"  maps: {path}")
    return 0


def _print(answer: Answer) -> None:
    over = {
        "vocabulary": "",
        "candidates": " (of the candidates)",
        "sequence": " (of this wording)",
        "text": " (read)",
    }[answer.score_over]
    print(answer.question)
    print(f"  {answer.answer}  {answer.score:.1%}{over}")
    others = [f"{other.answer} {other.score:.1%}" for other in answer.ranking if other.answer != answer.answer]
    unknown = [ranked.answer for ranked in answer.ranking if ranked.in_vocabulary is False]
    if answer.rest is not None and answer.score_over == "vocabulary":
        others.append(f"all others {answer.rest:.1%}")
    if others:
        print(f"  then: {', '.join(others)}")
    if unknown:
        print(f"  none of the model's own answers, scored by their wording alone: {', '.join(unknown)}")
    if answer.words:
        width = max(len(word.text) for word in answer.words)
        print("  looked most at (pixels from the upper left, strength of that cell):")
        for word in answer.words:
            x, y, value = word.peak()
            print(f"    {word.text:<{width}}  {x:6.0f} {y:6.0f}  {word.format_value(value)}")


def _draw(image: str | bytes, answer: Answer, path: Path) -> None:
    from crosslook.overlay import draw_answer, open_image

    if isinstance(image, str) and "://" in image[:8]:
        raise ValueError("--map needs the image itself; a URL is fetched by the server alone")
    draw_answer(open_image(image), answer).save(path)


def _complain(message: str) -> None:
    print(f"crosslook: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
