"""The arrows between modules, read from the sources: none in a circle, and none out of `model` or `crosslook`.

Every import counts, in functions and under `TYPE_CHECKING` too: a reader follows those as well. Importing a module also
runs the packages that it lies in, but a package is no arrow here unless something is taken from it by name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("model", "app", "crosslook")


def name_of(file: Path, root: Path) -> str:
    """``model/compact/__init__.py`` -> ``model.compact``."""
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.Module, name: str, package: bool) -> Iterator[tuple[str, ...]]:
    """For each name that a module imports, what it may be: ``from a import b`` is ``a.b``, or else ``a``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.name,)
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")[: len(name.split(".")) - node.level + package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}", base


def graph_of(root: Path) -> dict[str, set[str]]:
    """Module -> the modules of these rooms that it imports."""
    files = {name_of(file, root): file for room in ROOMS for file in sorted((root / room).rglob("*.py"))}
    arrows: dict[str, set[str]] = {}
    for name, file in files.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found = imported(tree, name, file.name == "__init__.py")
        targets = {next((c for c in candidates if c in files), "") for candidates in found}
        arrows[name] = targets - {"", name}
    return arrows


@cache
def arrows_here() -> dict[str, set[str]]:
    """Those of this repository."""
    return graph_of(ROOT)


def circle_in(arrows: dict[str, set[str]]) -> list[str] | None:
    """The modules of a circle, the first again at the end; None where there is none."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return None


def test_there_is_no_circle() -> None:
    arrows = arrows_here()
    assert len(arrows) > 100
    assert circle_in(arrows) is None


@pytest.mark.parametrize("room", ["model", "crosslook"])
def test_the_rooms_below_import_no_other(room: str) -> None:
    out = {
        (name, target)
        for name, targets in arrows_here().items()
        for target in targets
        if name.split(".")[0] == room and target.split(".")[0] != room
    }
    assert out == set()


def test_app_imports_both() -> None:
    """So the graph is not empty for want of reading."""
    targets = {t.split(".")[0] for name, found in arrows_here().items() if name.startswith("app.") for t in found}
    assert targets == set(ROOMS)


def test_the_interface_is_below_all_of_model() -> None:
    arrows = {name: targets for name, targets in arrows_here().items() if f"{name}.".startswith("model.interface.")}
    assert len(arrows) > 1
    assert {target for targets in arrows.values() for target in targets} <= set(arrows)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("import model.b", "import model.a"),
        ("from model import b", "from model.a import x"),
        ("from . import b", "def f():\n    from .a import x"),
        ("from model.b import y", "if TYPE_CHECKING:\n    import model.a"),
    ],
)
def test_a_circle_is_found_however_it_is_written(tmp_path: Path, one: str, other: str) -> None:
    for room in ROOMS:
        (tmp_path / room).mkdir()
    (tmp_path / "model" / "__init__.py").touch()
    (tmp_path / "model" / "a.py").write_text(one)
    (tmp_path / "model" / "b.py").write_text("")
    assert circle_in(graph_of(tmp_path)) is None
    (tmp_path / "model" / "b.py").write_text(other)
    assert set(circle_in(graph_of(tmp_path)) or ()) == {"model.a", "model.b"}
