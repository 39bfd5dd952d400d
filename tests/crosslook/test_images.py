from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app.intake import decode
from crosslook.decoding.rendering import deep_to_grey, is_deep
from crosslook.images import ImageIds, read_image
from crosslook.overlay import open_image
from crosslook.types import ImageRef

LIMITS = decode.ImageLimits(file_bytes=1_000_000, pixels=1_000_000, side=1000, min_side=1)


def png(mode: str = "RGB", size: tuple[int, int] = (5, 3)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 7).save(buffer, "PNG")
    return buffer.getvalue()


def test_bytes_paths_and_files_are_sent_as_they_are(tmp_path: Path) -> None:
    data = png()
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with path.open("rb") as file:
        sources = [read_image(image) for image in (data, bytearray(data), str(path), path, file, io.BytesIO(data))]
    assert [source.data for source in sources] == [data] * 6
    assert len({source.key for source in sources}) == 1  # one content, one key: sent once
    assert sources[0].by_value() == {"image": base64.b64encode(data).decode()}


def test_what_the_server_resolves_is_passed_on() -> None:
    uri = "data:image/png;base64," + base64.b64encode(png()).decode()
    assert read_image(uri).by_value() == {"image": uri}
    url = read_image("https://example.org/a.jpg")
    assert url.by_value() == {"image": "https://example.org/a.jpg"}
    assert url.key is None
    assert read_image(ImageRef(id="img_1", width=2, height=3)).by_value() == {"image_id": "img_1"}


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([(), (1,), (3,), (4,)]), st.integers(0, 2**32))
def test_an_array_becomes_a_png_of_the_same_pixels(
    height: int, width: int, channels: tuple[int, ...], seed: int
) -> None:
    array = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), np.uint8)
    data = read_image(array).data
    assert data is not None
    with Image.open(io.BytesIO(data)) as image:
        image.verify()
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(np.asarray(image), array.squeeze(-1) if array.shape[2:] == (1,) else array)


def test_an_array_in_another_memory_order_is_the_same_image() -> None:
    array = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    assert read_image(np.asfortranarray(array)) == read_image(array)
    assert read_image(array[::-1][::-1]) == read_image(array)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3)), "uint8"),
        (np.zeros((4, 4), bool), "uint8"),
        (np.zeros((4, 4, 2), np.uint8), r"\[height, width\]"),
        (np.zeros((4,), np.uint8), r"\[height, width\]"),
        (np.zeros((0, 4), np.uint8), r"\[height, width\]"),
    ],
)
def test_an_array_that_is_no_image_is_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_image(array)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "YCbCr", "HSV", "I"])
def test_a_pil_image_of_any_mode_is_sent(mode: str) -> None:
    data = read_image(Image.new(mode, (6, 4))).data
    assert data is not None
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (6, 4)


GREYS = np.arange(60 * 40, dtype=np.float32).reshape(40, 60) / (60 * 40 - 1)  # 0 to 1
DEEP: dict[str, tuple[np.ndarray, str]] = {
    "PNG of 16 bits": ((GREYS * 65535).astype(np.uint16), "PNG"),
    "dark PNG of 16 bits": ((GREYS * 200).astype(np.uint16), "PNG"),
    "TIFF of 16 bits": ((GREYS * 65535).astype(np.uint16), "TIFF"),
    "TIFF of 32 bits": ((GREYS * 65535).astype(np.int32), "TIFF"),
    "TIFF of 32 bits, up to 255": ((GREYS * 255).astype(np.int32), "TIFF"),
    "TIFF of 32 bits, below 0": ((GREYS * 90000 - 20000).astype(np.int32), "TIFF"),
    "TIFF of floats up to 1": (GREYS, "TIFF"),
    "TIFF of floats up to 255": (GREYS * 255, "TIFF"),
    "TIFF of floats up to 65535": (GREYS * 65535, "TIFF"),
    "TIFF of floats, some of them none": (np.where(GREYS < 0.1, np.nan, GREYS), "TIFF"),
    "TIFF of floats, some of them endless": (np.where(GREYS > 0.9, np.inf, np.where(GREYS < 0.1, -np.inf, 9)), "TIFF"),
}


def deep_file(name: str) -> bytes:
    """A file of 16 or 32 bits a pixel."""
    array, kind = DEEP[name]
    buffer = io.BytesIO()
    Image.fromarray(array.astype(np.float32) if array.dtype == np.float64 else array).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("name", DEEP)
def test_a_deep_image_is_drawn_on_as_the_server_sees_it(name: str) -> None:
    data = deep_file(name)
    assert is_deep(Image.open(io.BytesIO(data)))
    ours, servers = np.asarray(open_image(data)), np.asarray(decode.open_image(data, LIMITS).image)
    assert np.abs(ours.astype(int) - servers).max() <= 1


@pytest.mark.parametrize("name", DEEP)
def test_a_deep_pil_image_is_sent_as_its_file_looks(name: str) -> None:
    data = deep_file(name)
    sent = read_image(Image.open(io.BytesIO(data))).data
    assert sent is not None
    as_pil, as_file = (np.asarray(decode.open_image(each, LIMITS).image, int) for each in (sent, data))
    assert np.abs(as_pil - as_file).max() <= 1


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I"])
def test_every_order_of_bytes_of_a_deep_image(mode: str) -> None:
    values = (GREYS * 65535).astype({"I;16B": ">u2", "I": "<i4"}.get(mode, "<u2"))
    image = Image.frombytes(mode, (60, 40), values.tobytes())
    assert np.abs(np.asarray(deep_to_grey(image)) - GREYS * 255).max() <= 1


def test_a_pil_image_is_sent_upright() -> None:
    image = Image.new("RGB", (6, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # turned a quarter
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    data = read_image(Image.open(buffer)).data
    assert data is not None
    with Image.open(io.BytesIO(data)) as sent:
        assert sent.size == (4, 6)
        assert not sent.getexif()


@pytest.mark.parametrize("image", [None, 3, object(), io.StringIO("text")])
def test_what_is_no_image_is_refused(image: object) -> None:
    with pytest.raises(TypeError, match=r"image"):
        read_image(image)  # type: ignore[arg-type]


def test_a_missing_file_says_so() -> None:
    with pytest.raises(FileNotFoundError):
        read_image("no-such-file.jpg")


def test_ids_are_kept_for_the_latest_images() -> None:
    ids = ImageIds(b"secret", capacity=2)
    ids.put("a", "1", "s")
    ids.put("b", "2", "s")
    assert ids.get("a") == "1"  # used, so "b" is now the oldest
    ids.put("c", "3", "s")
    ids.put(None, "4", "s")
    assert [ids.get(key) for key in ("a", "b", "c", None)] == ["1", None, "3", None]
    ids.forget("a")
    ids.forget("never")
    ids.forget(None)
    assert ids.get("a") is None


def test_a_session_is_of_the_content_or_of_the_id_got_for_it() -> None:
    """For whoever has the same secret; what it names does not show."""
    ids, same, other = ImageIds(b"secret"), ImageIds(b"secret"), ImageIds(b"another")
    image, reference = read_image(b"bytes"), read_image(ImageRef(id="img_1", width=1, height=1))
    session = ids.session(image)
    assert re.fullmatch(r"[0-9a-f]{32}", session)
    assert session not in (image.key or "")
    assert same.session(image) == session != other.session(image)
    assert ids.session(read_image(b"others")) != session
    assert ids.session(reference) not in (session, other.session(reference))
    ids.put(image.key, "img_1", session)
    assert ids.session(reference) == ids.session(image) == session
    link = read_image("https://example.org/cat.jpg")
    assert ids.session(link) == ids.session(link) != session


def test_a_file_is_read_from_its_beginning(tmp_path: Path) -> None:
    """Whoever looked at its first bytes, or read it once already, has left it behind them."""
    data = png()
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for position in (0, 8, len(data)):
        with path.open("rb") as file:
            file.seek(position)
            assert [read_image(file).data for _ in range(2)] == [data] * 2
        memory = io.BytesIO(data)
        memory.seek(position)
        assert read_image(memory).data == data


class Pipe:
    """A file that cannot seek, as a response or a socket."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self) -> bytes:
        return self._file.read()


class Unseekable(Pipe):
    """One that says so only when it is tried."""

    def seek(self, position: int) -> int:
        raise io.UnsupportedOperation("seek")


@pytest.mark.parametrize("kind", [Pipe, Unseekable, io.BytesIO])
def test_a_file_without_bytes_says_so(kind: type[Pipe]) -> None:
    file = kind(png())
    assert read_image(file).data == png()
    if kind is not io.BytesIO:
        with pytest.raises(ValueError, match="no bytes, or they were read before"):
            read_image(file)
    with pytest.raises(ValueError, match="no bytes"):
        read_image(kind(b""))
