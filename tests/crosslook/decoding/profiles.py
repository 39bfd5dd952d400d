"""ICC profiles, made here, and what they mean in sRGB by their own arithmetic. Format: ICC.1:2022."""

from __future__ import annotations

import struct

import numpy as np

Array = np.ndarray

# Columns are the primaries in XYZ, adapted to D50 (Lindbloom's tables).
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71690, 0.06061], [0.01392, 0.09708, 0.71410]])
DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SWAPPED = SRGB[:, [1, 2, 0]]  # red is green, green is blue, blue is red: nobody can overlook it
D50 = np.array([0.9642, 1.0, 0.8249])


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def profile(space: bytes, tags: dict[bytes, bytes], *, kind: bytes = b"mntr", pcs: bytes = b"XYZ ") -> bytes:
    """A profile of version 2 with these tags."""
    tags = {b"wtpt": b"XYZ \0\0\0\0" + b"".join(map(_fixed, D50)), **tags}
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(body), len(value))
        body += value + b"\0" * (-len(value) % 4)
    head = struct.pack(">I", start + len(body)) + b"none" + b"\x02\x40\0\0" + kind + space + pcs + bytes(12) + b"acsp"
    head += bytes(28) + b"".join(map(_fixed, D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def gamma_curve(gamma: float) -> bytes:
    """A tone curve."""
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def rgb_profile(matrix: Array, gamma: float = 2.2) -> bytes:
    """A profile of three primaries."""
    tags = {
        name + b"XYZ": b"XYZ \0\0\0\0" + b"".join(map(_fixed, matrix[:, n]))
        for n, name in enumerate((b"r", b"g", b"b"))
    }
    return profile(b"RGB ", tags | {name + b"TRC": gamma_curve(gamma) for name in (b"r", b"g", b"b")})


def grey_profile(gamma: float) -> bytes:
    """A profile of grey."""
    return profile(b"GRAY", {b"kTRC": gamma_curve(gamma)})


# Lab of paper, and what each full ink takes from it: linear, so that any way of interpolating agrees.
PAPER, INKS = np.array([96.0, 0.0, 0.0]), np.array([[-20.0, -30.0, -20.0], [-24, 40, -4], [-4, -6, 50], [-40, 0, 0]])


GRID = 2


def cmyk_profile() -> bytes:
    """A press, by a table."""
    lab = PAPER + np.indices((GRID,) * 4).reshape(4, -1).T / (GRID - 1) @ INKS
    stored = np.round(np.column_stack([lab[:, 0] * 652.8, (lab[:, 1] + 128) * 256, (lab[:, 2] + 128) * 256]))
    identity = b"".join(_fixed(float(row == column)) for row in range(3) for column in range(3))
    table = b"mft2\0\0\0\0" + bytes([4, 3, GRID, 0]) + identity + struct.pack(">HH", 2, 2)
    table += struct.pack(">8H", *[0, 65535] * 4) + stored.astype(">u2").tobytes() + struct.pack(">6H", *[0, 65535] * 3)
    return profile(b"CMYK", {b"A2B0": table}, kind=b"prtr", pcs=b"Lab ")


def from_xyz(xyz: Array) -> Array:
    """sRGB, uint8, of XYZ ``[..., 3]`` under D50."""
    linear = np.clip(xyz @ np.linalg.inv(SRGB).T, 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(curved * 255).astype(np.uint8)


def rgb_in_srgb(values: Array, matrix: Array, gamma: float = 2.2) -> Array:
    """What uint8 RGB with `rgb_profile` looks like."""
    return from_xyz((values / 255.0) ** (round(gamma * 256) / 256) @ matrix.T)


def grey_in_srgb(values: Array, gamma: float) -> Array:
    """What uint8 grey ``[height, width]`` with `grey_profile` looks like."""
    return from_xyz((values[..., None] / 255.0) ** (round(gamma * 256) / 256) * D50)


def cmyk_in_srgb(values: Array) -> Array:
    """What uint8 CMYK (255: all ink) with `cmyk_profile` looks like."""
    lab = PAPER + values / 255.0 @ INKS
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    return from_xyz(np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * D50)
