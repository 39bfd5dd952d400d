"""The documentation site: strict, with the reference from the docstrings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from docs.make_site import stage
from tests.app.servers import ROOT


def test_links_to_the_code_lead_to_the_repository_and_others_stay(tmp_path: Path) -> None:
    pages = stage(tmp_path, "https://host/name/blob/main")
    assert {"README.md", "docs/maps.md", "model/weights/compact/README.md"} <= set(pages)
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "](docs/clients.md)" in readme
    assert "](https://host/name/blob/main/LICENSE)" in readme
    assert (tmp_path / "docs" / "images" / "page.jpg").is_file()
    stage(tmp_path)
    assert "Licensed under Apache-2.0" in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.long
def test_it_is_built_strictly(tmp_path: Path) -> None:
    for name in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(name, reason="needs the extra `docs`")
    done = subprocess.run(
        [sys.executable, "-m", "docs.make_site", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "docs" / "reference" / "index.html").read_text(encoding="utf-8")
    assert "answer with one of these; the scores are over them alone" in reference
    index = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "fonts.googleapis" not in index
