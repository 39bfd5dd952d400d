"""What `import crosslook` costs and offers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import crosslook

PACKAGE = Path(crosslook.__file__).parent


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, crosslook.cli; crosslook.Client; print(*sorted({n.partition('.')[0] for n in sys.modules}))"
    loaded = set(run(code).split())
    assert {"crosslook", "httpx", "pydantic"} <= loaded
    assert not loaded & {"torch", "numpy", "PIL", "transformers", "fastapi", "app", "model"}


def test_the_package_alone_costs_nothing() -> None:
    """Its exports are imported when first used."""
    assert run("import sys, crosslook; print('httpx' in sys.modules, 'pydantic' in sys.modules)") == "False False\n"


def test_it_works_where_only_httpx_and_pydantic_are_installed() -> None:
    """Whatever is installed besides them and what they need is made impossible to import."""
    code = """
import importlib.metadata, re, sys
allowed, todo = {"crosslook"}, ["httpx", "pydantic"]
while todo:
    name = todo.pop()
    if name in allowed: continue
    allowed.add(name)
    for requirement in importlib.metadata.requires(name) or []:
        if "extra ==" not in requirement:
            try:
                importlib.metadata.distribution(found := re.match(r"[\\w.-]+", requirement)[0])
                todo.append(found)
            except importlib.metadata.PackageNotFoundError:
                pass
normal = lambda name: re.sub(r"[-_.]+", "-", name).lower()
allowed = set(map(normal, allowed))
others = {module for module, owners in importlib.metadata.packages_distributions().items()
          if not allowed & set(map(normal, owners))}
class Only:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in others:
            raise ModuleNotFoundError(f"blocked: {name}")
sys.meta_path.insert(0, Only())
import crosslook
crosslook.Client().close()
try:
    import numpy
except ModuleNotFoundError as error:
    print(error)
"""
    assert run(code).strip() == "blocked: numpy"


def test_httpx_is_in_one_module() -> None:
    users = set()
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] in {"httpx", "httpcore", "anyio"} for name in names):
                users.add(path.name)
    assert users == {"transport.py"}


def test_what_is_exported_exists_and_is_sorted() -> None:
    assert crosslook.__all__ == sorted(crosslook.__all__)
    assert all(hasattr(crosslook, name) for name in crosslook.__all__)
    assert set(crosslook.__all__) <= set(dir(crosslook))
    with pytest.raises(AttributeError, match="Clientt"):
        getattr(crosslook, "Clientt")  # noqa: B009 - what `crosslook.Clientt` does
    assert run("import crosslook; print(crosslook.errors.CODES['overloaded'].status)") == "503\n"
    assert (PACKAGE / "py.typed").exists()
