"""Text of any script on drawings. Needs Pillow.

A character is drawn with the first font that has it: those that ``CROSSLOOK_FONTS`` names (files, separated as in
``PATH``), Pillow's own (Latin), the packages of Noto Sans and Noto Sans CJK where they are installed (``pip install
crosslook[overlay]`` brings the first, the server both), then the system's. One that no font has is written as its code
(``\\u732b``), so that two of them never look alike.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from threading import Lock

from PIL import ImageDraw, ImageFont

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

VARIABLE = "CROSSLOOK_FONTS"
_PACKAGES = (
    ("fontpkg_noto_sans", "files/NotoSans[wdth,wght].ttf", 0),
    ("manimgx_fonts_cjk", "NotoSansCJK-VF.otf.ttc", 2),  # the simplified Chinese one of five
)
_ELSEWHERE = (  # where there is no fontconfig to ask
    "/System/Library/Fonts/Supplemental/Arial Unicode.ttf",
    *(f"C:/Windows/Fonts/{name}" for name in ("segoeui.ttf", "msyh.ttc", "malgun.ttf", "Nirmala.ttf", "seguisym.ttf")),
)
_ABSENT = "\U0010ffff"  # no character, so every font draws its sign for one that it lacks
_CHECK_SIZE = 20
_lock = Lock()  # FreeType's fonts are not to be shared between threads


@dataclass(frozen=True, slots=True)
class Face:
    """A font's file and its number in there; without a path Pillow's own."""

    path: str = ""
    index: int = 0

    def at(self, size: int) -> Font:
        """The font in pixels, in its regular weight."""
        if not self.path:
            return ImageFont.load_default(size)
        font = ImageFont.truetype(self.path, size, self.index)
        with suppress(OSError, ValueError):  # most have one weight alone
            font.set_variation_by_name("Regular")
        return font


class Lettering:
    """Text in one size, in pixels. Not to be shared between threads."""

    def __init__(self, size: float) -> None:
        self._size = round(size)
        self._fonts: dict[Face, Font] = {}
        first = self._font(Face())
        self._ascent = first.getmetrics()[0] if isinstance(first, ImageFont.FreeTypeFont) else self._size

    def _font(self, face: Face) -> Font:
        if face not in self._fonts:
            self._fonts[face] = face.at(self._size)
        return self._fonts[face]

    def length(self, text: str) -> float:
        """Width in pixels."""
        return sum(self._font(face).getlength(part) for face, part in runs(text))

    def draw(self, draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, fill: tuple[int, int, int]) -> None:
        """Draw with the upper left corner at ``at``: fonts of different heights on one line."""
        x, y = at
        for face, part in runs(text):
            font = self._font(face)
            if isinstance(font, ImageFont.FreeTypeFont):
                draw.text((x, y + self._ascent), part, fill, font, "ls")
            else:  # Pillow without FreeType
                draw.text((x, y), part, fill, font)
            x += font.getlength(part)


def runs(text: str) -> list[tuple[Face, str]]:
    """The text in pieces, each with a font that has all of it."""
    pieces: list[tuple[Face, str]] = []
    for character in text:
        face = _face_for(character)
        joins = unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf")  # accents and the like go with a letter
        if pieces and (joins or face == pieces[-1][0] or (face and character == " ")):
            pieces[-1] = (pieces[-1][0], pieces[-1][1] + character)
        elif face is not None:
            pieces.append((face, character))
        else:
            code = f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"
            pieces += runs(code)
    return pieces


@lru_cache(maxsize=4096)
def _face_for(character: str) -> Face | None:
    if character.isspace():
        return Face()
    with _lock:
        for face in (*_asked(), Face(), *_packaged()):
            if _has(face, character):
                return face
        for face, covered in _system():
            if any(ord(character) in part for part in covered) and _has(face, character):
                return face
        return next(
            (face for face in map(Face, _ELSEWHERE) if os.path.exists(face.path) and _has(face, character)), None
        )


@cache
def _asked() -> tuple[Face, ...]:
    return tuple(Face(path) for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path)


@cache
def _packaged() -> tuple[Face, ...]:
    found = []
    for package, name, index in _PACKAGES:
        try:
            path = resources.files(package).joinpath(name)
        except ModuleNotFoundError:
            continue
        if path.is_file():
            found.append(Face(str(path), index))
    return tuple(found)


@cache
def _system() -> tuple[tuple[Face, tuple[range, ...]], ...]:
    """The system's fonts with the characters that they have, plain ones first."""
    program = shutil.which("fc-list")
    if program is None:
        return ()
    try:
        listing = subprocess.run(  # noqa: S603 # no text of a request is in it
            [program, "--format", "%{file}\t%{index}\t%{charset}\n"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ()
    found = []
    for line in listing.splitlines():
        path, index, charset = [*line.split("\t"), "", "", ""][:3]
        if path.lower().endswith((".ttf", ".otf", ".ttc")) and index.isdigit() and int(index) < 0x10000:
            ends = (part.partition("-") for part in charset.split())
            covered = tuple(range(int(low, 16), int(high or low, 16) + 1) for low, _, high in ends)
            plain = ("Regular" not in path and "DejaVuSans.ttf" not in path, "Serif" in path or "Mono" in path, path)
            found.append((plain, Face(path, int(index)), covered))
    return tuple((face, covered) for _, face, covered in sorted(found, key=lambda each: each[0]))


@cache
def _check_font(face: Face) -> tuple[Font, bytes, tuple[int, int]]:
    font = face.at(_CHECK_SIZE)
    absent = font.getmask(_ABSENT)
    return font, bytes(absent), absent.size


def _has(face: Face, character: str) -> bool:
    """Whether a font draws a character as something else than its sign for what it lacks."""
    try:
        font, absent, size = _check_font(face)
        drawn = font.getmask(character)
    except (OSError, ValueError, UnicodeError):  # no such file, or no font
        return False
    return drawn.size != size or bytes(drawn) != absent


def fit(text: str, lettering: Lettering, width: float) -> str:
    """The text, or as much of it as there is room for, with dots behind."""
    if lettering.length(text) <= width:
        return text
    while text and lettering.length(text + "...") > width:
        text = text[:-1]
    return text + "..."


def wrap(text: str, lettering: Lettering, width: float, most: int = 3) -> list[str]:
    """The text in lines, broken between words, and inside of one that is wider than a line (Chinese has no spaces)."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lettering.length(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for character in word if lettering.length(word) > width else [word]:
            if lines[-1] and lettering.length(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
        if len(lines) > most + 1:
            break
    kept = lines[: most - 1] + ([" ".join(lines[most - 1 :])] if len(lines) >= most else [])
    return [fit(line, lettering, width) for line in kept]
