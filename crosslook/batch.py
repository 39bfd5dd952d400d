"""Many images and questions for the command ``crosslook ask``: what to ask, what is done, and rows to write."""

from __future__ import annotations

import csv
import glob
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TextIO

from crosslook.results import Answer

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"})
COLUMNS = ("image", "question", "answer", "score", "score_over", "right", "then", "error")
"""Of a CSV row. ``right``: of answers with such a score to such a question, the share that was right when the model was
tested (empty where that is not known). ``then``: the runner-up."""

Done = set[tuple[str, str]]


def is_image(text: str) -> bool:
    """Whether an argument of the command names an image: ``-``, a URL, a file, or what only a file can be called."""
    if text == "-" or "://" in text[:8] or text[:5].lower() == "data:":
        return True
    try:
        return Path(text).suffix.lower() in SUFFIXES or Path(text).is_file()
    except (OSError, ValueError):  # too long for a name
        return False


def find_images(places: Sequence[str]) -> list[str]:
    """The images of folders (and all below them) and of patterns such as ``photos/*.jpg``, in the order of their names.

    Raises: FileNotFoundError for a place without one.
    """
    found: list[str] = []
    for place in places:
        folder = Path(place)
        names = folder.rglob("*") if folder.is_dir() else map(Path, glob.glob(place, recursive=True))
        images = sorted(str(name) for name in names if name.suffix.lower() in SUFFIXES and name.is_file())
        if not images:
            raise FileNotFoundError(f"no image in {place}")
        found += images
    return list(dict.fromkeys(found))


def read_questions(file: Path) -> list[str]:
    """The questions of a file, one a line; empty lines are none. Raises: OSError; ValueError where there is none."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    if not any(lines):
        raise ValueError(f"{file} has no question: one a line")
    return [line for line in lines if line]


def row_of(image: str, answer: Answer) -> dict[str, Any]:
    """An answer as a row: `COLUMNS`, and ``ranking`` for JSON."""
    return {
        "image": image,
        "question": answer.question,
        "answer": answer.answer,
        "score": answer.score,
        "score_over": answer.score_over,
        "right": None if answer.reliability is None else answer.reliability.right,
        "then": answer.ranking[1].answer if len(answer.ranking) > 1 else None,
        "error": None,
        "ranking": [[ranked.answer, ranked.score] for ranked in answer.ranking],
    }


class Rows:
    """Writes answers as JSON lines or CSV, to a file or to standard output, each as soon as it is there."""

    def __init__(self, stream: TextIO, kind: str, *, header: bool) -> None:
        self._stream, self._kind = stream, kind
        if kind == "csv" and header:
            self._write_csv(dict(zip(COLUMNS, COLUMNS, strict=True)))

    def answered(self, image: str, answers: Sequence[Answer]) -> None:
        """The answers about one image."""
        for answer in answers:
            self._write(row_of(image, answer))

    def failed(self, image: str, questions: Sequence[str], error: Exception) -> None:
        """What stands for the answers about an image that could not be had."""
        for question in questions:
            row: dict[str, Any] = {
                **dict.fromkeys(COLUMNS),
                "image": image,
                "question": question,
                "error": str(error),
                "ranking": [],
            }
            self._write(row)

    def _write(self, row: dict[str, Any]) -> None:
        if self._kind == "json":
            self._stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        else:
            self._write_csv(row)
        self._stream.flush()  # so that it stays when the command is ended after it

    def _write_csv(self, row: dict[str, Any]) -> None:
        line = io.StringIO()
        csv.DictWriter(line, COLUMNS, extrasaction="ignore", lineterminator="\n").writerow(row)
        self._stream.write(line.getvalue())


def already_done(file: Path, kind: str) -> Done:
    """The (image, question) pairs that a file has answers for; a last line that was cut off is cut away.

    Raises: ValueError where the file holds something else.
    """
    done: Done = set()
    if not file.exists():
        return done
    text = file.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        file.write_text(text, encoding="utf-8")
    try:
        rows = csv.DictReader(io.StringIO(text)) if kind == "csv" else map(json.loads, text.splitlines())
        for row in rows:
            if not row["error"]:  # what failed is tried again
                done.add((row["image"], row["question"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} does not hold answers as {kind}: {error!r}") from error
    return done


def ask_all(
    ask: Callable[[str, list[str]], list[Answer]],
    images: Iterable[str],
    questions: list[str],
    done: Done,
    jobs: int,
) -> Iterator[tuple[str, list[str], list[Answer] | Exception]]:
    """Ask all questions that are not ``done`` of every image, ``jobs`` images at once; results in the images' order,
    each an image, its questions, and their answers or what went wrong."""
    todo = [(image, left) for image in images if (left := [q for q in questions if (image, q) not in done])]

    def one(item: tuple[str, list[str]]) -> tuple[str, list[str], list[Answer] | Exception]:
        try:
            return *item, ask(*item)
        except Exception as error:  # the caller says which of them end the command
            return *item, error

    with ThreadPoolExecutor(jobs) as pool:
        try:
            yield from pool.map(one, todo)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class Progress:
    """How far the command is, on a terminal's standard error: tqdm's bar where that is installed, else a count."""

    def __init__(self, total: int) -> None:
        self._total, self._count, self._bar = total, 0, None
        if not sys.stderr.isatty() or total < 2:
            self._total = 0
            return
        try:
            from tqdm import tqdm
        except ImportError:
            return
        self._bar = tqdm(total=total, unit="image", file=sys.stderr)

    def step(self) -> None:
        """One more is done."""
        self._count += 1
        if self._bar is not None:
            self._bar.update()
        elif self._total:
            sys.stderr.write(f"\r{self._count}/{self._total} images")
            sys.stderr.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the line."""
        if self._bar is not None:
            self._bar.close()
        elif self._total:
            sys.stderr.write("\n")
