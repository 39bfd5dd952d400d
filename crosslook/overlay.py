"""Maps drawn over their image. Needs Pillow (``pip install pillow``).

Colours: viridis (Smith and van der Walt 2015, CC0), from control points of its published table. Every map is drawn from
0 to its own strongest cell, so two maps compare in shape, not in strength: the legend gives the strength.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageChops, ImageDraw

from crosslook.decoding import decode_image, rendered
from crosslook.drawn import DrawnAnswer, DrawnMap, read_nothing
from crosslook.fonts import Lettering, fit, wrap

_VIRIDIS = (
    (68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142),
    (31, 158, 137), (53, 183, 121), (109, 205, 89), (180, 222, 44), (253, 231, 37),
)  # fmt: skip
_DARK, _LIGHT = (8, 10, 14), (255, 248, 235)  # of a spotlight
_FALL, _TINT = 1.3, 0.18  # how steeply it falls into the dark, and how much of its strongest cell the light covers
_BACKGROUND, _INK, _FAINT = (18, 18, 22), (240, 240, 244), (160, 160, 170)
_SHEET_WIDTHS = (640, 1600)  # an image outside of these is scaled for a sheet, so that the text has room
_TALLEST = 1.6  # of a sheet's images, as a multiple of their width
_PANELS_A_ROW = 4


def open_image(image: Any) -> Image.Image:
    """The image as the server sees it (`crosslook.decoding`): upright, RGB, in sRGB, on white.

    ``image`` is a path, the bytes of a file, a binary file, a PIL image or a NumPy array (uint8).

    Raises: ValueError for what is no image, a broken one, or one of a variety that is not read; OSError as `open` does.
    """
    if isinstance(image, Image.Image):
        return rendered(image)
    if hasattr(image, "__array_interface__"):
        return rendered(Image.fromarray(image))
    if isinstance(image, (bytes, bytearray)):
        return decode_image(bytes(image)).image
    if not hasattr(image, "read"):
        return decode_image(Path(image).read_bytes()).image
    if hasattr(image, "seek"):
        image.seek(0)  # whoever wrote or sent it has left it at its end
    return decode_image(image.read()).image


Style = Literal["colours", "spotlight"]
"""``colours``: where the map is strong, a colour covers the image. ``spotlight``: where it is weak, all is dark, and
the strongest is a little lighter, so that it is seen on black as well."""


def draw_map(
    image: Image.Image,
    attention_map: DrawnMap,
    *,
    opacity: float = 0.65,
    legend: bool = True,
    style: Style = "colours",
) -> Image.Image:
    """The map over the image, at the image's own size. Where the map is strong the colour covers more.

    Args:
        image: upright RGB, of the size that the server saw.
        opacity: 0 (image alone) to 1 (the strongest cell hides the image; as a spotlight, the weakest).
        legend: a small colour bar with the strength of the strongest cell; a spotlight has none.
        style: see `Style`.

    Raises: ValueError when the image has another size.
    """
    expected = (attention_map.image.width, attention_map.image.height)
    if image.size != expected:
        raise ValueError(f"the map belongs to an image of {expected[0]} x {expected[1]}, this one is {image.size}")
    if style == "spotlight":
        layer = spotlight(attention_map, image.size, opacity).convert("RGBA")
        return Image.composite(layer.convert("RGB"), image, layer.getchannel("A"))
    drawn = _blend(image, attention_map, opacity)
    if legend and min(image.size) >= 64:
        _draw_legend(drawn, attention_map)
    return drawn


def draw_answer(image: Image.Image, answer: DrawnAnswer) -> Image.Image:
    """One sheet: question and answer, the answer's map over the image, and below it a small panel for every word.

    Without an ``answer.map`` the image itself stands in its place. Raises ValueError as `draw_map` does.
    """
    width = min(max(image.width, _SHEET_WIDTHS[0]), _SHEET_WIDTHS[1])
    unit = width / _SHEET_WIDTHS[0]
    gap = round(12 * unit)
    tall = min(image.height / image.width, _TALLEST)
    main = _fitted(draw_map(image, answer.map, legend=False) if answer.map else image, (width, round(width * tall)))
    if answer.map:
        _draw_legend(main, answer.map)
    panel_width = (width - (_PANELS_A_ROW - 1) * gap) // _PANELS_A_ROW
    panel_height = max(1, round(panel_width * tall))
    small = _fitted(image, (panel_width, panel_height))

    title, label = Lettering(22 * unit), Lettering(15 * unit)
    title_lines = wrap(answer.question, title, width)
    answer_line = answer.answer if read_nothing(answer) else f"{answer.answer}   {answer.score:.1%}"
    line, label_height = round(30 * unit), round(24 * unit)
    header = line * (len(title_lines) + 1) + gap
    rows = -(-len(answer.words) // _PANELS_A_ROW)
    height = header + main.height + gap + rows * (panel_height + label_height + gap)
    sheet = Image.new("RGB", (width + 2 * gap, height + 2 * gap), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for index, text in enumerate(title_lines):
        title.draw(draw, (gap, gap + index * line), text, _FAINT)
    title.draw(draw, (gap, gap + len(title_lines) * line), fit(answer_line, title, width), _INK)
    top = gap + header
    sheet.paste(main, (gap, top))
    top += main.height + gap
    for index, word in enumerate(answer.words):
        left = gap + (index % _PANELS_A_ROW) * (panel_width + gap)
        upper = top + (index // _PANELS_A_ROW) * (panel_height + label_height + gap)
        sheet.paste(_blend(small, word, 0.65), (left, upper))
        caption = fit(f"{word.text}  ({word.format_value(_strongest(word))})", label, panel_width)
        label.draw(draw, (left, upper + panel_height + round(3 * unit)), caption, _INK)
    return sheet


def _fitted(image: Image.Image, box: tuple[int, int]) -> Image.Image:
    scale = min(box[0] / image.width, box[1] / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _strongest(attention_map: DrawnMap) -> float:
    return max(map(max, attention_map.values))


def _blend(image: Image.Image, attention_map: DrawnMap, opacity: float) -> Image.Image:
    """Map over image, whatever the image's size: positions go by the fraction of the original."""
    strength = _place(attention_map, image.size)
    colours = Image.merge("RGB", [strength.point([_viridis(i / 255)[band] for i in range(256)]) for band in range(3)])
    # What was not looked at stays as it is in the photograph.
    cover = strength.point([round(opacity * level) for level in range(256)])
    return Image.composite(colours, image, cover)


def spotlight(attention_map: DrawnMap, size: tuple[int, int], opacity: float) -> Image.Image:
    """What makes a spotlight of an image of ``size`` when it lies over it: darkness and light, as an image of 256
    colours, each with its opacity, which is a small PNG."""
    layer = _place(attention_map, size)
    entries = [_spot(level / 255, opacity) for level in range(256)]
    layer.putpalette([value for entry in entries for value in entry[:3]])
    layer.info["transparency"] = bytes(entry[3] for entry in entries)
    return layer


def _spot(level: float, opacity: float) -> tuple[int, ...]:
    """Light over darkness as one layer, RGBA (as app/web/colormaps.js)."""
    dark, light = (1 - level) ** _FALL, _TINT * level**3
    cover = 1 - (1 - dark) * (1 - light)
    colour = ((light * high + (1 - light) * dark * low) / cover for low, high in zip(_DARK, _LIGHT, strict=True))
    return (*map(round, colour), round(255 * opacity * cover))


def _place(attention_map: DrawnMap, size: tuple[int, int]) -> Image.Image:
    """The map as an 8-bit image of ``size`` (width, height), 255 at its strongest, smooth between the centres of its
    cells; 0 outside its region."""
    rows, columns = len(attention_map.values), len(attention_map.values[0])
    scale_x, scale_y = size[0] / attention_map.image.width, size[1] / attention_map.image.height
    region = attention_map.attention.region
    left, top = region.left * scale_x, region.top * scale_y
    width, height = (region.right - region.left) * scale_x, (region.bottom - region.top) * scale_y
    peak = _strongest(attention_map)
    cells = [255.0 * max(0.0, value) / peak if peak > 0 else 0.0 for row in attention_map.values for value in row]
    # The part of the grid that lies on the image, as a box in cells; what exceeds the image is cut off exactly.
    x0, y0 = max(0.0, left), max(0.0, top)
    x1, y1 = min(float(size[0]), left + width), min(float(size[1]), top + height)
    box = (
        (x0 - left) / width * columns,
        (y0 - top) / height * rows,
        min(float(columns), (x1 - left) / width * columns),
        min(float(rows), (y1 - top) / height * rows),
    )
    placed = (round(x0), round(y0), max(round(x0) + 1, round(x1)), max(round(y0) + 1, round(y1)))
    part_size = (placed[2] - placed[0], placed[3] - placed[1])
    smooth, limit = (
        _grid(values, rows, columns).resize(part_size, method, box=box).convert("L")
        for values, method in ((cells, Image.Resampling.BICUBIC), (_tops(cells, columns), Image.Resampling.NEAREST))
    )
    canvas = Image.new("L", size, 0)
    canvas.paste(ImageChops.darker(smooth, limit), placed)
    return canvas


def _grid(cells: Sequence[float], rows: int, columns: int) -> Image.Image:
    return Image.frombytes("F", (columns, rows), struct.pack(f"<{len(cells)}f", *cells), "raw", "F;32F")


def _tops(cells: Sequence[float], columns: int) -> list[float]:
    """For each cell the strongest of it and its neighbours. A smooth curve rises above its points here and there: so
    limited, no place outdoes the cells around it, and the strongest stays where it is."""
    rows = range(len(cells) // columns)
    wide = [max(cells[max(at - 1, at - at % columns) : min(at + 2, at - at % columns + columns)])
            for at in range(len(cells))]  # fmt: skip
    return [
        max(wide[row * columns + column] for row in (above, here, below) if row in rows)
        for above, here, below in ((row - 1, row, row + 1) for row in rows)
        for column in range(columns)
    ]


def _viridis(level: float) -> tuple[int, int, int]:
    position = level * (len(_VIRIDIS) - 1)
    index = min(int(position), len(_VIRIDIS) - 2)
    part = position - index
    low, high = _VIRIDIS[index], _VIRIDIS[index + 1]
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(low, high, strict=True))
    return red, green, blue


def _draw_legend(image: Image.Image, attention_map: DrawnMap) -> None:
    """A colour bar from 0 to the strength of the strongest cell, in the lower right corner."""
    unit = max(1.0, min(image.size) / 400)
    font = Lettering(12 * unit)
    high = attention_map.format_value(_strongest(attention_map))
    bar = (round(80 * unit), round(8 * unit))
    pad = round(6 * unit)
    text_height = round(15 * unit)
    box = (bar[0] + 2 * pad, bar[1] + text_height + 2 * pad)
    left, top = image.width - box[0] - pad, image.height - box[1] - pad
    ground = image.crop((left, top, left + box[0], top + box[1]))
    image.paste(Image.blend(ground, Image.new("RGB", ground.size, _BACKGROUND), 0.75), (left, top))
    draw = ImageDraw.Draw(image)
    for x in range(bar[0]):
        colour = _viridis(x / max(1, bar[0] - 1))
        draw.line([(left + pad + x, top + pad), (left + pad + x, top + pad + bar[1])], colour)
    below = top + pad + bar[1] + round(2 * unit)
    font.draw(draw, (left + pad, below), "0", _INK)
    font.draw(draw, (left + pad + bar[0] - font.length(high), below), high, _INK)
