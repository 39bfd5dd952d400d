"""The data that training and evaluation read: JSON lines about images, with the images in a tar file or a folder.

The format is described in docs/data.md. Images are read in place from an uncompressed tar; nothing is unpacked.
"""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image, ImageOps

from model.evaluation.judging import Kind, answer_kind

_DEV_SHARE = 10  # of images without a named split, one in so many is for dev
_SEALED = 508  # of a thousand images of dev; 250 of those that the default model is judged by
_ENOUGH_TO_SEAL = 200  # images of dev; of fewer, half would tell too little


class DataError(ValueError):
    """The data folder does not hold what docs/data.md says; the message names the file and line."""


class ImageRef(NamedTuple):
    """Names one image, wherever the data folder lies: the tar file (or folder) in it, and the member's name."""

    archive: str
    name: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question about an image and its human answers, exactly as written."""

    image_ref: ImageRef
    question: str
    answers: tuple[str, ...]
    source: str
    split: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Captions:
    """An image's captions by people: all that a split has of it."""

    image_ref: ImageRef
    captions: tuple[str, ...]
    source: str
    split: str


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence about an image, true or false of it."""

    image_ref: ImageRef
    statement: str
    truth: bool
    source: str
    split: str

    def as_question(self) -> Question:
        """The statement as a yes/no question: "The cat is on the mat." becomes "Is the cat on the mat?"."""
        text = self.statement.strip().rstrip(".")
        head, verb, tail = _split_at_verb(text)
        if verb:
            question = f"{verb.capitalize()} {_lower_first(head)} {tail}?"
        else:
            question = f"Is it true that {_lower_first(text)}?"
        answers = ("yes" if self.truth else "no",)
        return Question(self.image_ref, question, answers, self.source, self.split, "yes/no")


class Box(NamedTuple):
    """An object of a class, and its box: left, top, right and bottom as shares of the image's sides."""

    name: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Objects:
    """All objects of the known classes in an image. They belong to no split: they are for choosing, never for
    training."""

    image_ref: ImageRef
    objects: tuple[Box, ...]
    source: str


Record = Question | Captions | Statement | Objects


class DataSet:
    """All records of a data folder, and its images.

    ``questions``, ``captions``, ``statements`` and ``objects`` are in the order of the files (by name) and of their
    lines. Several records of captions about one image are one here, so that an image drawn beside it is always another.
    """

    def __init__(self, root: Path, records: list[Record], archives: dict[str, dict[str, tuple[int, int]]]) -> None:
        self.root = root
        self.questions = [record for record in records if isinstance(record, Question)]
        self.captions = _by_image(record for record in records if isinstance(record, Captions))
        self.statements = [record for record in records if isinstance(record, Statement)]
        self.objects = [record for record in records if isinstance(record, Objects)]
        self.image_refs = list(dict.fromkeys(record.image_ref for record in records))
        self._archives = archives

    def read_image(self, ref: ImageRef) -> bytes:
        """The image file's bytes. Safe in threads and in forked or spawned processes: nothing is kept open."""
        if ref.archive not in self._archives:
            return (self.root / ref.archive / ref.name).read_bytes()
        offset, size = self._archives[ref.archive][ref.name]
        with (self.root / ref.archive).open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def open_image(self, ref: ImageRef) -> Image.Image:
        """The image: decoded, upright, RGB.

        Raises:
            DataError: the bytes are no image that Pillow can decode.
        """
        try:
            with Image.open(io.BytesIO(self.read_image(ref))) as image:
                return ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{ref.archive}: {ref.name}: {error}") from error


def _by_image(records: Iterable[Captions]) -> list[Captions]:
    """One record an image and split, where the first of it stood; of two sources it is "a + b"."""
    together: dict[tuple[ImageRef, str], list[Captions]] = {}
    for record in records:
        together.setdefault((record.image_ref, record.split), []).append(record)
    return [
        Captions(
            ref,
            tuple(caption for record in found for caption in record.captions),
            " + ".join(dict.fromkeys(record.source for record in found)),
            split,
        )
        for (ref, split), found in together.items()
    ]


def read_data(root: str | Path) -> DataSet:
    """Read every ``*.jsonl`` in a folder and find its images.

    The images of ``NAME.jsonl`` are in ``NAME.tar`` or in the folder ``NAME``, else in ``images.tar`` or ``images``,
    else beside the file itself.

    Raises:
        DataError: no folder, no ``.jsonl`` in it, a record of unknown shape, or an image that is not there.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder")
    files = sorted(root.glob("*.jsonl"))
    if not files:
        raise DataError(f"{root} holds no .jsonl file (docs/data.md describes the format)")
    archives: dict[str, dict[str, tuple[int, int]]] = {}
    records: list[Record] = []
    for file in files:
        archive, stem = _archive_of(file), file.stem
        if archive.endswith(".tar") and archive not in archives:
            archives[archive] = _index_tar(root / archive)
        names = archives.get(archive)
        seen: set[str] = set()
        for number, values in _lines(file):
            try:
                record = _record(values, archive, stem)
                name = record.image_ref.name
                if name not in seen:
                    _check_image(root, archive, name, names)
                    seen.add(name)
            except DataError as error:
                raise DataError(f"{file.name}, line {number}: {error}") from None
            records.append(record)
    return DataSet(root, _seal(records), archives)


def image_split(name: str) -> str:
    """The split of an image that no record gives one: ``dev`` for about one in ten, ``train`` for the others, always
    the same for the same name."""
    return "dev" if zlib.crc32(name.encode()) % _DEV_SHARE == 0 else "train"


def is_sealed(name: str) -> bool:
    """Whether an image of a large ``dev`` is kept from choosing: about half are, always the same for the same name."""
    return zlib.crc32(f"seal/{name}".encode()) % 1000 < _SEALED


def _seal(records: list[Record]) -> list[Record]:
    """``seal`` for about half of the images of a large ``dev``: they are kept from choosing, so that a figure on them
    holds."""
    dev = {record.image_ref for record in records if not isinstance(record, Objects) and record.split == "dev"}
    if len(dev) < _ENOUGH_TO_SEAL:
        return records
    sealed = {ref for ref in dev if is_sealed(ref.name)}
    return [
        record
        if isinstance(record, Objects) or record.split != "dev" or record.image_ref not in sealed
        else replace(record, split="seal")
        for record in records
    ]


def _archive_of(file: Path) -> str:
    for name in (f"{file.stem}.tar", file.stem, "images.tar", "images"):
        path = file.parent / name
        if path.is_file() if name.endswith(".tar") else path.is_dir():
            return name
    return "."


def _index_tar(path: Path) -> dict[str, tuple[int, int]]:
    """Member name -> (offset, size) of its bytes in the file."""
    try:
        with tarfile.open(path, "r:") as tar:
            return {
                member.name.removeprefix("./"): (member.offset_data, member.size) for member in tar if member.isreg()
            }
    except tarfile.TarError as error:
        raise DataError(f"{path.name} is no uncompressed tar file: {error}") from error


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except ValueError as error:
                raise DataError(f"{file.name}, line {number}: no JSON: {error}") from None
            if not isinstance(values, dict):
                raise DataError(f"{file.name}, line {number}: not a JSON object")
            yield number, values


def _record(values: dict[str, Any], archive: str, stem: str) -> Record:
    name = _text(values, "image")
    ref = ImageRef(archive, name)
    source = _text(values, "source") if "source" in values else stem
    split = _text(values, "split") if "split" in values else image_split(name)
    if "question" in values:
        answers = _texts(values, "answers")
        return Question(ref, _text(values, "question"), answers, source, split, answer_kind(answers))
    if "captions" in values:
        return Captions(ref, _texts(values, "captions"), source, split)
    if "statement" in values:
        truth = values.get("truth")
        if not isinstance(truth, bool):
            raise DataError("`truth` must be true or false")
        return Statement(ref, _text(values, "statement"), truth, source, split)
    if "objects" in values:
        return Objects(ref, _boxes(values), source)
    raise DataError("needs `question` and `answers`, `captions`, `statement` and `truth`, or `objects`")


def _boxes(values: dict[str, Any]) -> tuple[Box, ...]:
    """The objects of a record, whose boxes are [left, top, width, height] in pixels of an image of ``width`` x
    ``height``."""
    try:
        width, height = float(values["width"]), float(values["height"])
        found = []
        for one in values["objects"]:
            left, top, wide, high = (float(side) for side in one["box"])
            box = (left / width, top / height, (left + wide) / width, (top + high) / height)
            found.append(Box(_text(one, "name"), box))
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        raise DataError("`objects` needs `width`, `height`, and a `name` and a `box` of four numbers each") from None
    return tuple(found)


def _text(values: dict[str, Any], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"`{key}` must be a text that is not empty")
    return value


def _texts(values: dict[str, Any], key: str) -> tuple[str, ...]:
    value = values.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text.strip() for text in value):
        raise DataError(f"`{key}` must be a list of texts, at least one, none empty")
    return tuple(value)


def _check_image(root: Path, archive: str, name: str, names: dict[str, tuple[int, int]] | None) -> None:
    if names is not None:
        if name not in names:
            raise DataError(f"{archive} holds no image {name!r}")
        return
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"the image {name!r} must lie inside the data folder")
    if not (root / archive / name).is_file():
        where = "the data folder" if archive == "." else f"the folder {archive}"
        raise DataError(f"{where} holds no image {name!r}")


def _split_at_verb(text: str) -> tuple[str, str, str]:
    words = text.split()
    for position, word in enumerate(words):
        if word in ("is", "are") and 0 < position < len(words) - 1:
            return " ".join(words[:position]), word, " ".join(words[position + 1 :])
    return text, "", ""


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:] if text.startswith(("The ", "A ", "An ", "There ")) else text
