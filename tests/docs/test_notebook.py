"""The worked notebook runs against a real server, and its cells show pictures."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from tests.app.servers import serving

pytestmark = pytest.mark.long  # starts a kernel and a server
nbformat = pytest.importorskip("nbformat", reason="needs the extra `docs`")
pytest.importorskip("nbclient", reason="needs the extra `docs`")
pytest.importorskip("ipykernel", reason="needs the extra `docs`")


def shown(notebook: object, kind: str) -> list[str]:
    """What the cells show as ``kind``, in order."""
    return [
        output.data[kind]
        for cell in notebook.cells  # type: ignore[attr-defined]
        for output in cell.get("outputs", [])
        if kind in output.get("data", {})
    ]


def test_it_runs_and_shows_pictures(tmp_path: Path) -> None:
    from docs.make_notebook import make, run

    with serving(tmp_path / "log", loader=None, model="tiny", threads=1) as server:
        executed = run(make(), server.url)
    (html,) = shown(executed, "text/html")
    assert html.count('class="w w') == 4
    for data in shown(executed, "image/jpeg"):
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert min(image.size) >= 300
    printed = "".join(output.get("text", "") for cell in executed.cells for output in cell.get("outputs", []))
    assert "astronaut.jpg" in printed
    assert "animal   looked most at x=" in printed


def test_the_stored_notebook_is_the_one_that_is_written_here() -> None:
    from docs.make_notebook import NOTEBOOK, make

    stored = nbformat.read(NOTEBOOK, as_version=4)
    assert [cell.source for cell in stored.cells] == [cell.source for cell in make().cells]
    assert shown(stored, "text/html")
    assert shown(stored, "image/jpeg")
