"""Base64 and data URIs, as clients spell them."""

from __future__ import annotations

import base64
from unittest import mock
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import RequestError
from app.intake import inline
from app.intake.decode import ImageLimits

LIMITS = ImageLimits(file_bytes=10_000, pixels=10_000, side=1000, min_side=8)
DATA = bytes(range(256)) + b"\xfb\xef\xbe\xff"  # 260 bytes: one "=" of padding, and both letters that URLs cannot hold
PLAIN = base64.b64encode(DATA).decode()
SAFE = base64.urlsafe_b64encode(DATA).decode()
LINES = base64.encodebytes(DATA).decode()

SPELLINGS = {
    "plain": PLAIN,
    "unpadded": PLAIN.rstrip("="),
    "URL-safe": SAFE,
    "URL-safe and unpadded": SAFE.rstrip("="),
    "lines": LINES,
    "lines of Windows, indented": LINES.replace("\n", "\r\n    "),
    "lines that a shell made spaces": LINES.strip().replace("\n", " "),
    "data URI": f"data:image/png;base64,{PLAIN}",
    "data URI, nothing named": f"data:;base64,{PLAIN}",
    "data URI in capitals": f"DATA:IMAGE/PNG;BASE64,{PLAIN}",
    "data URI with a charset": f"data:image/png;charset=utf-8;base64,{PLAIN}",
    "data URI with spaces": f" \n data:image/png; base64 ,\n{PLAIN}\n",
    "data URI, percent-encoded": f"data:image/png;base64,{quote(PLAIN, safe='')}",
    "data URI, URL-safe and unpadded": f"data:image/png;base64,{SAFE.rstrip('=')}",
    "data URI, lines percent-encoded": f"data:image/png;base64,{quote(LINES)}",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_all_spellings_are_one_image(spelling: str) -> None:
    assert PLAIN.endswith("=")
    assert {"+", "/"} <= set(PLAIN)
    assert {"-", "_"} <= set(SAFE)
    assert inline.from_text(SPELLINGS[spelling], LIMITS) == DATA
    assert inline.plain_base64(SPELLINGS[spelling]) == PLAIN


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "data:image/png;base64,",
        "data:image/png,abcd",
        "data:image/png;base64",
        "data:image/png;base32,AAAA",
        "data:" + ";" * 2000 + "base64," + PLAIN,
        "no base64!",
        PLAIN[:-3],  # fours of letters and one: no number of bytes has that
        PLAIN.replace("+", " ", 1),  # a plus that became a space
        "data:;base64," + PLAIN.replace("+", "%20", 1),
        PLAIN[:-5] + " " + PLAIN[-4:-1],  # the same, with the padding lost as well
        PLAIN[:8] + "=" + PLAIN[8:],
        PLAIN + "é",
        PLAIN.replace("A", "%41", 1),  # percent-encoding is of URIs
    ],
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        inline.from_text(text, LIMITS, param="here")
    assert (caught.value.code, caught.value.param) == ("invalid_base64", "here")


def test_too_many_bytes() -> None:
    """The cap on the file is checked before base64 is undone."""
    small = ImageLimits(file_bytes=1024, pixels=10_000, side=1000, min_side=8)
    for length in (1500, 2000, 10**6):
        with pytest.raises(RequestError) as caught:
            inline.from_text("A" * (length // 4 * 4), small)
        assert caught.value.code == "image_too_large"
    assert len(inline.from_text("A" * 1024, small)) == 768
    assert len(inline.from_text("data:;base64," + "%41" * 1024, small)) == 768


def test_a_url_is_told_from_base64() -> None:
    assert all(map(inline.is_url, ("http://a/b.png", "HTTPS://a", "ftp://a/b", "file:///etc/passwd")))
    assert not any(map(inline.is_url, (PLAIN, SAFE, "data:;base64,AAAA", "//8=")))


@given(st.binary(max_size=300), st.integers(1, 40), st.booleans())
def test_any_bytes_in_any_lines(data: bytes, width: int, padded: bool) -> None:
    """Pieces are of a few letters here: they end in the middle of everything."""
    text = base64.b64encode(data).decode()
    text = text if padded else text.rstrip("=")
    wrapped = "\r\n".join(text[start : start + width] for start in range(0, len(text), width))
    with mock.patch.object(inline, "PIECE", 8):
        for spelling in (wrapped, f"data:;base64,{wrapped}", f"data:;base64,{quote(wrapped, safe='')}"):
            if data:
                assert inline.from_text(spelling, LIMITS) == data


@example("0000 =")  # spaces are not made good, so neither is padding
@given(st.text(alphabet="AZaz09+/=\n -_é%4", max_size=24))
def test_pieces_change_nothing(text: str) -> None:
    """What is refused and what is read does not depend on where a piece ends."""

    def read(spelling: str) -> bytes | None:
        try:
            return inline.from_text(spelling, LIMITS)
        except RequestError:
            return None

    whole = [read(text), read(f"data:;base64,{text}")]
    with mock.patch.object(inline, "PIECE", 4):
        assert [read(text), read(f"data:;base64,{text}")] == whole


def test_a_percent_sign_for_every_letter() -> None:
    """Millions of them are no image: to undo each would take seconds."""
    large = ImageLimits(file_bytes=20_000_000, pixels=10_000, side=1000, min_side=8)
    with pytest.raises(RequestError) as caught:
        inline.from_text("data:;base64," + "%41" * 2_000_001, large)
    assert caught.value.code == "invalid_base64"


def test_where_the_bounds_of_a_text_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    head = "data:" + ";" * (1000 - len("data:;base64,")) + ";base64,"
    assert inline.from_text(head + PLAIN, LIMITS) == DATA
    with pytest.raises(RequestError):
        inline.from_text(head.replace(":", ":;", 1) + PLAIN, LIMITS)
    assert inline.is_url("a" * 29 + "://")
    assert not inline.is_url("a" * 30 + "://")
    monkeypatch.setattr(inline, "_MOST_ESCAPES", 3)
    escaped = "data:;base64," + "".join(f"%{ord(letter):x}" for letter in PLAIN[:3])
    assert inline.from_text(escaped + PLAIN[3:], LIMITS) == DATA
    with pytest.raises(RequestError):
        inline.from_text(f"{escaped}%{ord(PLAIN[3]):x}{PLAIN[4:]}", LIMITS)
