"""What a caller may pass as an image, and what is sent for it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import io
import os
import struct
import sys
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, runtime_checkable

from crosslook.types import ImageRef


@runtime_checkable
class SupportsArrayInterface(Protocol):
    """A NumPy array or a PIL image: both have this attribute, so neither package is needed to name their type."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


class SupportsRead(Protocol):
    """A file opened in binary mode, or anything that reads like one. It is read from its beginning, if it can seek."""

    def read(self) -> bytes:
        """All bytes from the present position on."""


ImageLike = str | os.PathLike[str] | bytes | bytearray | SupportsRead | SupportsArrayInterface | ImageRef
"""An image: a path, the bytes of a file, an open binary file, a PIL image, a NumPy array (uint8, ``[height, width]``,
``[height, width, 3]`` RGB or ``[height, width, 4]`` RGBA), a data URI, a URL that the *server* fetches, or the
`ImageRef` that an earlier response gave it."""


@dataclass(frozen=True, slots=True)
class ImageSource:
    """An image ready to send. Exactly one of the first three is set.

    ``key`` names the content, so that a second request can send the server's id for it in place of the bytes. A URL has
    none: what it leads to may change.
    """

    data: bytes | None = None
    text: str | None = None
    image_id: str | None = None
    key: str | None = None

    def by_value(self) -> dict[str, str]:
        """The request field that carries the image itself (or the id, where that is all there is)."""
        if self.image_id is not None:
            return {"image_id": self.image_id}
        if self.data is not None:
            return {"image": base64.b64encode(self.data).decode("ascii")}
        return {"image": self.text or ""}


def read_image(image: ImageLike) -> ImageSource:
    """Read what the caller passed. May touch the disk.

    Raises: OSError as `open` does; TypeError for what is no image; ValueError for arrays of the wrong shape and for
        files that are empty.
    """
    if isinstance(image, ImageRef):
        return ImageSource(image_id=image.id)
    if isinstance(image, str) and image[:5].lower() == "data:":
        return ImageSource(text=image, key=_digest(image.encode()))
    if isinstance(image, str) and image[:8].lower().startswith(("http://", "https://")):
        return ImageSource(text=image)
    data = _file_bytes(image)
    return ImageSource(data=data, key=_digest(data))


def keepable(image: ImageLike, source: ImageSource) -> ImageLike | None:
    """What a result keeps of the image that was passed, to draw its maps on; None where it is not here (a URL, an id).

    A path stays a path: the results of a thousand files do not hold their bytes.
    """
    if isinstance(image, ImageRef) or (source.text is not None and source.key is None):
        return None
    if source.text is not None:
        return base64.b64decode(source.text.partition(",")[2])
    return source.data if hasattr(image, "read") else image


def chosen_image(image: Any, source: Any) -> Any:
    """``image`` where it is given, else ``source``. Raises ValueError where there is neither."""
    if image is None and source is None:
        raise ValueError("the image itself is not here (the server fetched it, or has it by its id): name it")
    return source if image is None else image


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _file_bytes(image: Any) -> bytes:
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        return Path(image).read_bytes()
    pil = sys.modules.get("PIL.Image")  # a PIL image can only exist where PIL has been imported
    if pil is not None and isinstance(image, pil.Image):
        return _encode_pil(image)
    if isinstance(image, SupportsArrayInterface):
        return _encode_array(image)
    if hasattr(image, "read"):
        with contextlib.suppress(AttributeError, OSError):  # no file that can: a pipe, a response
            image.seek(0)  # Pillow does so too; whoever looked at the first bytes has left it behind them
        data = image.read()
        if not isinstance(data, bytes):
            raise TypeError("the image file must be opened in binary mode")
        if not data:
            raise ValueError("the image file has no bytes, or they were read before")
        return data
    raise TypeError(f"an image cannot be a {type(image).__name__}")


def _encode_pil(image: Any) -> bytes:
    from crosslook.decoding.rendering import rendered

    buffer = io.BytesIO()
    rendered(image).save(buffer, format="PNG", compress_level=1, icc_profile=None)  # in sRGB by now
    return buffer.getvalue()


def _encode_array(array: Any) -> bytes:
    """A PNG of an array. Written here since neither NumPy nor PIL is needed for it. Format: RFC 2083."""
    shape = tuple(array.shape)
    if array.__array_interface__["typestr"] != "|u1":
        raise ValueError(f"an image array must be uint8 (0 to 255), this one is {array.dtype}")
    channels = shape[2] if len(shape) == 3 else 1
    if len(shape) not in (2, 3) or channels not in (1, 3, 4) or 0 in shape:
        raise ValueError(f"an image array must be [height, width], [.., 3] or [.., 4], this one is {list(shape)}")
    height, width = shape[:2]
    pixels, stride = array.tobytes(), width * channels
    rows = b"".join(b"\x00" + pixels[start : start + stride] for start in range(0, height * stride, stride))
    colour_type = {1: 0, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


class ImageIds:
    """What a client knows of images sent before, the latest ``capacity`` of them: the server's ids, and which session
    each belongs to. Safe to share between threads.

    ``secret`` keys the names of sessions, which proxies see and log: without it, nobody can tell by them which image
    was sent.
    """

    def __init__(self, secret: bytes, capacity: int = 1024) -> None:
        self._secret = secret
        self._ids = _Latest(capacity)
        self._sessions = _Latest(capacity)
        self._lock = Lock()

    def session(self, source: ImageSource) -> str:
        """The name of the session of an image: 32 hexadecimal digits, the same for its content and for an id that this
        client got for it. An id from elsewhere has a session of its own."""
        with self._lock:
            known = self._sessions.get(source.image_id)
        if known is not None:
            return known
        name = source.key or source.image_id or source.text or ""
        return hmac.new(self._secret, f"crosslook session {name}".encode(), hashlib.sha256).hexdigest()[:32]

    def get(self, key: str | None) -> str | None:
        """The id of the image named ``key``, if it was sent before."""
        with self._lock:
            return self._ids.get(key)

    def put(self, key: str | None, image_id: str, session: str) -> None:
        """Remember an id and its session. ``key`` None: an image whose content has no name."""
        with self._lock:
            self._sessions.put(image_id, session)
            if key is not None:
                self._ids.put(key, image_id)

    def forget(self, key: str | None) -> None:
        """Drop an id that the server no longer knows."""
        with self._lock:
            self._ids.pop(key or "", None)


class _Latest(OrderedDict[str, str]):
    """The latest ``capacity`` of what was put or got."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity

    def get(self, key: str | None) -> str | None:  # type: ignore[override]
        if key is None or key not in self:
            return None
        self.move_to_end(key)
        return self[key]

    def put(self, key: str, value: str) -> None:
        self[key] = value
        self.move_to_end(key)
        if len(self) > self._capacity:
            self.popitem(last=False)
