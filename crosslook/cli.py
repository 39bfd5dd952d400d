"""The command ``crosslook``: ask a server from a terminal."""

from __future__ import annotations

import argparse
import io
import os
import sys
import unicodedata
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import crosslook
from crosslook.batch import (
    Progress,
    Rows,
    already_done,
    ask_all,
    find_images,
    is_image,
    read_questions,
)
from crosslook.client import Client, server_url
from crosslook.core import AnswerOptions
from crosslook.drawn import is_mostly_off, read_nothing
from crosslook.errors import APIError, AuthenticationFailed, ConnectionFailed, CrosslookError
from crosslook.results import Answer

_ITS_OWN = (CrosslookError, OSError, ValueError)  # what one image of several may be at fault for
_ENDS = (ConnectionFailed, AuthenticationFailed)  # and what would befall all others as well


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 1 after an error (which goes to stderr)."""
    for stream in (sys.stdout, sys.stderr):  # files and pipes of Windows have code pages, which lack most letters
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    parsed = parser.parse_args(arguments)
    try:
        return _ask(parsed, parsed.parser)
    except ConnectionFailed as error:
        _complain(f"{error}. No server answers at {server_url(parsed.url)}: start one in a clone of crosslook with "
                  "`bash scripts/serve` (or `docker compose up`), or name another with --url.")  # fmt: skip
    except APIError as error:
        _complain(_said(error))
    except CrosslookError as error:
        _complain(str(error))
    except ImportError as error:
        _complain(f"--map needs Pillow (pip install pillow): {error}")
    except BrokenPipeError:  # whoever reads has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the end of Python does not complain
    except (OSError, ValueError) as error:
        _complain(_said(error))
    except KeyboardInterrupt:
        return 130
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="crosslook", description="Ask questions about images.")
    parser.add_argument("--version", action="version", version=f"crosslook {crosslook.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    ask = commands.add_parser(
        "ask",
        help="ask about one or more images",
        description="Print each answer, its runners-up and, for every word, where the model looked most.",
        usage="crosslook ask IMAGE... QUESTION... [options]",
        epilog="Columns of CSV: score (0 to 1) and what it is a share of; right: of answers with such a score, how "
        "many were right when the model was tested; then: the runner-up; error: why there is no answer.",
    )
    ask.add_argument(
        "texts",
        metavar="IMAGE... QUESTION...",
        nargs="*",
        help="files, URLs or - for standard input; the first argument that is none of these is the first question",
    )
    ask.add_argument("--images", metavar="DIR", action="append", help="a folder, or a pattern in quotes (repeat it)")
    ask.add_argument("--questions", metavar="FILE", type=Path, help="questions from a file, one a line")
    ask.add_argument("--json", action="store_true", help="a line of JSON an answer, without maps")
    ask.add_argument("--csv", action="store_true", help="a line of CSV an answer, without maps")
    ask.add_argument("--out", metavar="FILE", type=Path, help="write JSON or CSV into this file (by its ending)")
    ask.add_argument("--resume", action="store_true", help="go on where --out was left: ask what has no answer there")
    ask.add_argument("--jobs", metavar="N", type=int, default=4, help="images asked about at once (4)")
    ask.add_argument(
        "--map", metavar="FILE", type=Path, help="draw the maps into this file (of several answers: -1, -2, ..)"
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
    ask.add_argument("--head", metavar="N", type=int, action="append", help="average raw maps of this head (repeat it)")
    ask.add_argument("--url", help="the server; default: $CROSSLOOK_URL, else http://127.0.0.1:8080")
    ask.add_argument("--api-key", help="default: $CROSSLOOK_API_KEY")
    ask.add_argument("--timeout", metavar="SECONDS", type=float, default=60.0)
    ask.set_defaults(parser=ask)  # whose usage goes with an error
    return parser


def _images_and_questions(parsed: argparse.Namespace, parser: argparse.ArgumentParser) -> tuple[list[str], list[str]]:
    """What is asked about what. The first argument is an image whatever it looks like, unless --images names them."""
    texts: list[str] = parsed.texts
    first = 0 if parsed.images else min(1, len(texts))
    while first < len(texts) and is_image(texts[first]):
        first += 1
    images = texts[:first] + find_images(parsed.images or [])
    questions = texts[first:] + (read_questions(parsed.questions) if parsed.questions else [])
    if not images or not questions:
        parser.error("images come first, then at least one question: crosslook ask cat.jpg 'What is this?'")
    if images.count("-") > 1:
        parser.error("standard input is one image")
    return images, questions


def _kind_of_rows(parsed: argparse.Namespace, parser: argparse.ArgumentParser) -> str | None:
    """``json`` or ``csv`` where rows are to be written, None where answers are printed to be read."""
    if parsed.json and parsed.csv:
        parser.error("--json or --csv, not both")
    if parsed.resume and not parsed.out:
        parser.error("--resume goes on with a file: name it with --out")
    if parsed.out and parsed.out.exists() and not parsed.resume:
        parser.error(f"{parsed.out} is there already: --resume goes on with it")
    if parsed.csv or (parsed.out and not parsed.json and parsed.out.suffix.lower() == ".csv"):
        kind: str | None = "csv"
    else:
        kind = "json" if parsed.json or parsed.out else None
    if kind and parsed.map:
        parser.error("--map goes with neither --json, --csv nor --out")
    return kind


def _options(parsed: argparse.Namespace, kind: str | None) -> AnswerOptions:
    options = AnswerOptions(top_k=parsed.top_k)
    if parsed.candidate:
        options["candidates"] = parsed.candidate
    if parsed.language:
        options["language"] = parsed.language
    if parsed.map_kind:
        options["map_kind"] = parsed.map_kind
    if parsed.layer:
        options["layers"] = parsed.layer
    if parsed.head:
        options["heads"] = parsed.head
    if kind:
        options["maps"] = "none"
    return options


def _ask(parsed: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    images, questions = _images_and_questions(parsed, parser)
    if parsed.jobs < 1:
        parser.error("--jobs must be at least 1")
    kind = _kind_of_rows(parsed, parser)
    options = _options(parsed, kind)
    given = {"-": sys.stdin.buffer.read()} if "-" in images else {}
    done = already_done(parsed.out, kind or "json") if parsed.resume else set()
    missed = answered = 0
    with ExitStack() as opened:
        client = opened.enter_context(Client(parsed.url, api_key=parsed.api_key, timeout=parsed.timeout))
        progress = opened.enter_context(Progress(len(images) if kind else 0))
        sink: Rows | _Text = _Text(parsed.map, given, several=len(images) > 1, alone=len(images) * len(questions) == 1)
        if kind:
            stream = (
                opened.enter_context(parsed.out.open("a", encoding="utf-8", newline="")) if parsed.out else sys.stdout
            )
            sink = Rows(stream, kind, header=not (parsed.out and parsed.out.stat().st_size))

        def ask(image: str, texts: list[str]) -> list[Answer]:
            return client.answer(given.get(image, image), texts, **options)

        for image, asked, found in ask_all(ask, images, questions, done, parsed.jobs):
            progress.step()
            if isinstance(found, list):
                sink.answered(image, found)
                answered += len(found)
                continue
            if len(images) == 1 or isinstance(found, _ENDS) or not isinstance(found, _ITS_OWN):
                raise found
            missed += 1
            said = _said(found)
            _complain(said if said.startswith(image) else f"{image}: {said}")
            sink.failed(image, asked, found)
    if parsed.out:
        _complain(f"{answered} {'answer' if answered == 1 else 'answers'} written to {parsed.out}")
    return 1 if missed else 0


class _Text:
    """Prints answers to be read, and draws their maps where a file is named."""

    def __init__(self, file: Path | None, given: dict[str, bytes], *, several: bool, alone: bool) -> None:
        self._file, self._given, self._several, self._alone = file, given, several, alone
        self._count = 0

    def answered(self, image: str, answers: Sequence[Answer]) -> None:
        if self._several:
            print(image)
        for answer in answers:
            self._count += 1
            _print(answer)
            if self._file:
                path = self._file if self._alone else self._file.with_stem(f"{self._file.stem}-{self._count}")
                _draw(self._given.get(image, image), answer, path)
                print(f"  maps: {path}")

    def failed(self, image: str, questions: Sequence[str], error: Exception) -> None:
        """Standard error has said it."""


def _said(error: Exception) -> str:
    """An error with its code and where to find it in the server's log."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if not isinstance(error, APIError):
        return str(error)
    found = f", request {error.request_id}" if error.request_id else ""
    return f"{error} ({error.code}{found})"


_WORDS = {
    "en": {
        "vocabulary": "",
        "candidates": " (of the candidates)",
        "sequence": " (of this wording)",
        "text": " (read)",
        "doubt": "not sure: ",
        "near": "another answer is nearly as likely",
        "tested": "when it was tested, {right:.0%} of such answers were right ({count} questions)",
        "rest": "all others {rest:.1%}",
        "then": "then: {others}",
        "unknown": "none of the model's own answers, scored by their wording alone: {unknown}",
        "off answer": "{share:.0%} of the answer's map is not in the image",
        "off": "  ({share:.0%} of its map is not in the image)",
        "looked": "looked most at (pixels from the upper left, strength of that cell):",
    },
    "zh": {
        "vocabulary": "",
        "candidates": "（在候选答案中）",
        "sequence": "（这一说法）",
        "text": "（读出的文字）",
        "doubt": "不太确定：",
        "near": "另一个答案几乎同样可能",
        "tested": "测试时，这样的答案有 {right:.0%} 是对的（{count} 个问题）",
        "rest": "其他所有答案 {rest:.1%}",
        "then": "其次：{others}",
        "unknown": "不在模型自己的答案里，只凭字面打分：{unknown}",
        "off answer": "答案的图有 {share:.0%} 不在图片里",
        "off": "（它的图有 {share:.0%} 不在图片里）",
        "looked": "看得最多的地方（从左上角起的像素，以及那一格的强度）：",
    },
}


def _print(answer: Answer) -> None:
    """The answer as text, in the language that it is in."""
    words = _WORDS.get(answer.raw.language or "en", _WORDS["en"])
    print(answer.question)
    if read_nothing(answer):
        print(f"  {answer.answer}")
    else:
        _print_score(answer, words)
    if answer.map and is_mostly_off(answer.map, answer) and answer.score_over != "text":
        print(f"  {words['off answer'].format(share=answer.map.off_image)}")
    if answer.words:
        width = max(_columns(word.text) for word in answer.words)
        print(f"  {words['looked']}")
        for word in answer.words:
            x, y, value = word.peak()
            padding = " " * (width - _columns(word.text))
            off = words["off"].format(share=word.off_image) if is_mostly_off(word, answer) else ""
            print(f"    {word.text}{padding}  {x:6.0f} {y:6.0f}  {word.format_value(value)}{off}")


def _print_score(answer: Answer, words: dict[str, str]) -> None:
    """The answer with its score, whether to doubt it, and what else it may be."""
    print(f"  {answer.answer}  {answer.score:.1%}{words[answer.score_over]}")
    doubt = words["doubt"] if answer.unsure else ""
    if answer.reliability:
        right, count = answer.reliability.right, answer.reliability.count
        print(f"  {doubt}{words['tested'].format(right=right, count=count)}")
    elif doubt:
        print(f"  {doubt}{words['near']}")
    others = [f"{other.answer} {other.score:.1%}" for other in answer.ranking if other.answer != answer.answer]
    unknown = [ranked.answer for ranked in answer.ranking if ranked.in_vocabulary is False]
    if answer.rest is not None and answer.score_over == "vocabulary":
        others.append(words["rest"].format(rest=answer.rest))
    if others:
        print(f"  {words['then'].format(others=', '.join(others))}")
    if unknown:
        print(f"  {words['unknown'].format(unknown=', '.join(unknown))}")


def _columns(text: str) -> int:
    """How wide a terminal shows a text: signs of East Asia take two columns."""
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)


def _draw(image: str | bytes, answer: Answer, path: Path) -> None:
    from crosslook.overlay import draw_answer, open_image

    if isinstance(image, str) and "://" in image[:8]:
        raise ValueError("--map needs the image itself; a URL is fetched by the server alone")
    draw_answer(open_image(image), answer).save(path)


def _complain(message: str) -> None:
    print(f"crosslook: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
