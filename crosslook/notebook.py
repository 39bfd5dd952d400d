"""How answers and maps show themselves in Jupyter and other notebooks. Needs Pillow; without it they are text."""

from __future__ import annotations

import base64
import html
import io
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from crosslook.drawn import DrawnMap, ShownAnswer, ShownMap, is_mostly_off, read_nothing
from crosslook.images import chosen_image

if TYPE_CHECKING:
    from PIL.Image import Image

_WIDEST = 480  # pixels of the image in a cell
_MAP = 160  # pixels of a map's longer side, which the browser smooths
_OPACITY = 0.8  # of what is not looked at
_FAINT = 0.2  # the same where most of the map is not in the image


def show_answer(answer: ShownAnswer, image: Any = None) -> None:
    """Show an answer: below the cell of a notebook, else as a picture in the system's viewer. Raises ImportError where
    Pillow is not installed, ValueError where the image is not here."""
    from crosslook.overlay import draw_answer, open_image

    opened = open_image(chosen_image(image, answer.source))
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if hasattr(shell, "kernel"):
        ipython = import_module("IPython.display")
        ipython.display(ipython.HTML(_html(answer, opened)))
    else:
        draw_answer(opened, answer).show(title=f"{answer.question} {answer.answer}")


def answer_html(answer: ShownAnswer) -> str | None:
    """Question, answer, image and maps as HTML, each word's map where one points at it; None where the image cannot be
    had, so that the notebook shows text."""
    image = _image(answer.source)
    return None if image is None else _html(answer, image)


def answer_png(answer: ShownAnswer) -> bytes | None:
    """The sheet of `crosslook.overlay.draw_answer` as PNG; None as for `answer_html`."""
    image = _image(answer.source)
    if image is None:
        return None
    from crosslook.overlay import draw_answer

    return _encoded(draw_answer(image, answer), "PNG")


def map_png(attention_map: ShownMap) -> bytes | None:
    """The map over its image as PNG; None as for `answer_html`."""
    image = _image(attention_map.source)
    if image is None:
        return None
    from crosslook.overlay import draw_map

    return _encoded(draw_map(image, attention_map), "PNG")


def _image(source: Any) -> Image | None:
    """The image, or None where it is not here, cannot be read any more or Pillow is not installed."""
    if source is None:
        return None
    try:
        from crosslook.overlay import open_image

        return open_image(source)
    except (ImportError, OSError, ValueError):
        return None


def _html(answer: ShownAnswer, image: Image) -> str:
    name = f"crosslook-{uuid4().hex[:8]}"  # styles of a notebook hold for all of its cells
    scale = min(1.0, _WIDEST / image.width)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    maps = ([answer.map] if answer.map else []) + list(answer.words)
    photograph = _address(_encoded(image.resize(size), "JPEG"), "jpeg")
    off = [_off(each, answer) for each in maps]
    opacities = [_FAINT if is_mostly_off(each, answer) else _OPACITY for each in maps]
    masks = "".join(f'<img class="m{i}" alt="" src="{_mask(each, size, opacities[i])}">' for i, each in enumerate(maps))
    then = ", ".join(f"{html.escape(each.answer)} {each.score:.1%}" for each in answer.ranking[1:4])
    measured, doubt = answer.reliability, "not sure: " if answer.unsure else ""
    worth = f"; when it was tested, {measured.right:.0%} of such answers were right" if measured else ""
    said = "" if read_nothing(answer) else f" {answer.score:.1%}{worth}"
    small = "<br>".join(filter(None, [then and f"then {then}", off[0] if answer.map else ""]))
    return (
        f'<style>{_style(name, size[0], len(maps))}</style><section class="{name}">{_words(answer, off)}<br>'
        f"{doubt}<b>{html.escape(answer.answer)}</b>{said}<br>"
        f"<small>{small}</small>"
        f'<div><img alt="{html.escape(answer.question)}" src="{photograph}">{masks}</div></section>'
    )


def _style(name: str, width: int, maps: int) -> str:
    """The map of the answer is shown, and in its place that of the word under the pointer or with the focus."""
    rules = [
        ("", "font: 16px/1.5 system-ui, sans-serif"),
        (" b", "font-size: 1.3em"),
        (" .w", "border-bottom: 2px solid currentcolor; cursor: default"),
        (" div", f"position: relative; width: {width}px; max-width: 100%"),
        (" img", "display: block; width: 100%; margin: 0"),
        (" img + img", "position: absolute; inset: 0; height: 100%; opacity: 0; transition: opacity 0.15s"),
        (" div .m0", "opacity: 1"),
    ]
    for state in ("hover", "focus"):
        rules.append((f" .w:{state} ~ div .m0", "opacity: 0"))
        rules += [(f" .w{i}:{state} ~ div .m{i}", "opacity: 1") for i in range(maps)]
    return "".join(f".{name}{selector} {{ {declarations} }}" for selector, declarations in rules)


def _words(answer: ShownAnswer, off: list[str]) -> str:
    """The question, each word with a map in a span of its own; ``off``: of each map what `_off` says."""
    parts, at = [], 0
    for index, word in enumerate(answer.words, start=1 if answer.map else 0):
        start, end = word.span or (at, at)
        parts.append(html.escape(answer.question[at:start]))
        title = f' title="{off[index]}"' if off[index] else ""
        parts.append(f'<span class="w w{index}" tabindex="0"{title}>{html.escape(answer.question[start:end])}</span>')
        at = end
    return "".join(parts) + html.escape(answer.question[at:])


def _off(attention_map: DrawnMap, answer: ShownAnswer) -> str:
    """What to say of a map that says little of the image; nothing of where a text that was read stands."""
    if not is_mostly_off(attention_map, answer) or (attention_map is answer.map and answer.score_over == "text"):
        return ""
    return f"{attention_map.off_image:.0%} of its map is not in the image"


def _mask(attention_map: DrawnMap, size: tuple[int, int], opacity: float) -> str:
    """What makes a spotlight of the photograph below it."""
    from crosslook.overlay import spotlight

    scale = _MAP / max(size)
    small = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    return _address(_encoded(spotlight(attention_map, small, opacity), "PNG"), "png")


def _encoded(image: Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def _address(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
