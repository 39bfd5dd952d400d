from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from crosslook.maps import AttentionMap
from crosslook.overlay import draw_answer, draw_map, open_image
from crosslook.results import Answer, read_answers
from crosslook.types import AnswerResponse, Attention, ImageRef
from tests.crosslook.conftest import golden

GREY = (120, 120, 120)
SIZE = (451, 300)
Box = tuple[float, float, float, float]


def grey(size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.new("RGB", size, GREY)


def answer(name: str = "answer_one") -> Answer:
    return read_answers(AnswerResponse.model_validate(golden(name)), None)[0]


def one_cell(row: int, column: int, *, region: Box, size: tuple[int, int]) -> AttentionMap:
    """A map of 4 x 8 cells that is 1 in one of them."""
    left, top, right, bottom = region
    attention = Attention.model_validate(
        golden("answer_one")["attention"]
        | {"grid": {"rows": 4, "columns": 8}, "region": {"left": left, "top": top, "right": right, "bottom": bottom}}
    )
    values = tuple(tuple(float((r, c) == (row, column)) for c in range(8)) for r in range(4))
    return AttentionMap("cat", None, values, 0.0, attention, ImageRef(id="i", width=size[0], height=size[1]))


def yellowest(image: Image.Image) -> tuple[float, float]:
    """The centre (x, y) of where the image is most like the strong end of the colours."""
    pixels = np.asarray(image).astype(float)
    score = pixels[..., 0] + pixels[..., 1] - 2 * pixels[..., 2]
    rows, columns = np.nonzero(score > score.max() - 40)
    return float(columns.mean()) + 0.5, float(rows.mean()) + 0.5


@pytest.mark.parametrize("cell", [(0, 0), (1, 6), (3, 7), (2, 3)])
@pytest.mark.parametrize(
    ("size", "region"),
    [
        ((400, 200), (0, 0, 400, 200)),
        ((333, 517), (0, 0, 333, 517)),
        ((600, 200), (100, 0, 500, 200)),
        ((200, 400), (0, 50.5, 200, 349.5)),
    ],
)
def test_the_colour_is_strongest_where_the_map_is(cell: tuple[int, int], size: tuple[int, int], region: Box) -> None:
    attention_map = one_cell(*cell, region=region, size=size)
    drawn = draw_map(grey(size), attention_map, legend=False)
    x, y, _ = attention_map.peak()
    cell_width, cell_height = (region[2] - region[0]) / 8, (region[3] - region[1]) / 4
    found_x, found_y = yellowest(drawn)
    assert abs(found_x - x) < cell_width / 2
    assert abs(found_y - y) < cell_height / 2


def test_outside_of_the_region_nothing_is_drawn() -> None:
    pixels = np.asarray(
        draw_map(grey((600, 200)), one_cell(1, 1, region=(100, 0, 500, 200), size=(600, 200)), legend=False)
    )
    assert (pixels[:, :100] == GREY).all()
    assert (pixels[:, 500:] == GREY).all()
    assert not (pixels[75, 175] == GREY).all()
    assert (pixels[190, 490] == GREY).all(), "and nothing where nothing was looked at"


@pytest.mark.parametrize("tone", [0, 120, 255])
def test_a_spotlight_lights_the_place_and_leaves_the_rest_dark(tone: int) -> None:
    attention_map = one_cell(1, 1, region=(0, 0, 400, 200), size=(400, 200))
    image = Image.new("RGB", (400, 200), (tone,) * 3)
    pixels = np.asarray(draw_map(image, attention_map, style="spotlight", opacity=1.0)).astype(int)
    assert (pixels[150, 350] == (8, 10, 14)).all()
    assert np.abs(pixels[75, 75] - [tone + 0.18 * (light - tone) for light in (255, 248, 235)]).max() < 12


def test_a_region_that_exceeds_the_image_is_cut_not_squeezed() -> None:
    """Cells 2 to 5 of the columns lie on the image, so cell 4's centre is at five eighths of the width."""
    attention_map = one_cell(1, 4, region=(-200, 0, 600, 200), size=(400, 200))
    drawn = draw_map(grey((400, 200)), attention_map, legend=False)
    assert attention_map.peak()[:2] == (250.0, 75.0)
    x, y = yellowest(drawn)
    assert abs(x - 250) < 50
    assert abs(y - 75) < 25


def test_the_image_keeps_its_size_and_the_legend_is_in_its_corner() -> None:
    found = answer().map
    assert found is not None
    bare, legend = (np.asarray(found.overlay(grey(), legend=on)) for on in (False, True))
    assert bare.shape == legend.shape == (300, 451, 3)
    rows, columns = np.nonzero((bare != legend).any(axis=-1))
    assert rows.min() > 200
    assert columns.min() > 300


@pytest.mark.parametrize(("kind", "strength"), [("raw", "60.0%"), ("rollout", "60.0%"), ("gradient", "0.6")])
def test_legends_and_sheets_write_only_shares_per_cent(
    monkeypatch: pytest.MonkeyPatch, kind: str, strength: str
) -> None:
    body = golden("answer_one")
    body["attention"]["kind"] = kind
    found = read_answers(AnswerResponse.model_validate(body), None)[0]
    written: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda _self, _at, text, *_: written.append(text))
    draw_answer(grey(), found)
    assert strength in written  # the legend
    assert f"a  ({strength})" in written  # a word's panel


def test_opacity_zero_is_the_image() -> None:
    found = answer().map
    assert found is not None
    assert (np.asarray(found.overlay(grey(), opacity=0.0, legend=False)) == GREY).all()


def test_a_map_of_zeros_is_drawn() -> None:
    flat = one_cell(9, 9, region=(0, 0, 80, 80), size=(80, 80))
    assert draw_map(grey((80, 80)), flat).size == (80, 80)


def test_an_image_of_another_size_is_refused() -> None:
    found = answer().map
    assert found is not None
    with pytest.raises(ValueError, match="451 x 300"):
        found.overlay(grey((300, 451)))


def test_images_are_opened_upright_and_opaque(tmp_path: Path) -> None:
    image = Image.new("RGB", (6, 4))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (4, 6)
    assert open_image((tmp_path / "turned.jpg").read_bytes()).size == (4, 6)
    buffer = io.BytesIO()
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(buffer, "PNG")
    assert open_image(buffer).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("name", ["answer_one", "answer_none", "answer_u8"])
def test_a_sheet_holds_everything(name: str) -> None:
    found = answer(name)
    sheet = draw_answer(grey(), found)
    assert sheet.width >= 640
    panels = -(-len(found.words) // 4)
    least = 640 * 300 / 451 + panels * 100
    assert least < sheet.height < least + 200


@pytest.mark.parametrize("size", [(1, 1), (8, 3000), (3000, 8), (4000, 3000)])
def test_a_sheet_of_a_strange_size(size: tuple[int, int]) -> None:
    body = golden("answer_one")
    body["image"] |= {"width": size[0], "height": size[1]}
    body["attention"]["region"] = {"left": 0.0, "top": 0.0, "right": float(size[0]), "bottom": float(size[1])}
    body["results"][0]["question"] = "long " * 60
    found = read_answers(AnswerResponse.model_validate(body), None)[0]
    sheet = draw_answer(grey(size), found)
    assert 640 <= sheet.width <= 1700
    assert sheet.height < 4 * sheet.width
