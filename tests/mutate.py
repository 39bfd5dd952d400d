"""Which lines could be wrong without a test noticing: ``scripts/mutate FILE [options] [pytest's arguments]``.

One thing of the file is changed at a time (a comparison, a number, a returned value, a statement left out ..) in a copy
of the checkout, and the tests that belong to the file are run. A mutant that no test fails on survives: a test is
missing, or the change makes no difference.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}
_PYTEST = ["-q", "-x", "-m", "not long", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
_LEFT_OUT = (ast.AugAssign, ast.Raise, ast.Continue, ast.Break, ast.Delete)


@dataclass(frozen=True)
class Mutant:
    """One change: the line it is on, what it is, and the file's source with it."""

    line: int
    change: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """Every change that is made to ``source``, one at a time. Annotations, decorators and texts are left alone."""
    tree = ast.parse(source)
    for node, name, index in _places(tree):
        found = getattr(node, name)
        old = found if index is None else found[index]
        for new in _changes(old, node):
            if index is None:
                setattr(node, name, new)
            else:
                found[index] = new
            line = getattr(old, "lineno", getattr(node, "lineno", 0))
            yield Mutant(line, f"{_text(old)} -> {_text(new)}", ast.unparse(ast.fix_missing_locations(tree)))
            if index is None:
                setattr(node, name, old)
            else:
                found[index] = old


def _places(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Where a node stands in its parent, for all nodes below ``node``."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                yield node, name, index if isinstance(value, list) else None
                yield from _places(child)


def _changes(node: Any, parent: ast.AST) -> Iterator[ast.AST]:
    """What ``node`` is changed to."""
    if type(node) in _SWAPS:
        yield _SWAPS[type(node)]()
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.Name | ast.Attribute | ast.Call) and isinstance(parent, ast.If | ast.While | ast.IfExp):
        if node is parent.test:
            yield ast.UnaryOp(ast.Not(), node)
    elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield ast.Return(ast.Constant(None))
    elif isinstance(node, _LEFT_OUT) or (isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)):
        yield ast.Pass()


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _text(node: ast.AST) -> str:
    text = ast.unparse(node) if isinstance(node, ast.expr | ast.stmt) else type(node).__name__
    return " ".join(text.split())[:60]


def tests_of(file: Path) -> list[str]:
    """The tests that belong to a file: the one of its name, or else all of its package's."""
    folder = Path("tests") / file.parent
    own = folder / f"test_{file.stem}.py"
    return [str(own if (ROOT / own).is_file() else folder)]


def survives(copy: Path, arguments: Sequence[str], seconds: int) -> bool:
    """Whether the tests pass in ``copy``; a run of more than ``seconds`` seconds does not. It runs in a fork, so that
    what is imported already is imported once."""
    child = os.fork()
    if not child:
        signal.alarm(seconds)
        sink = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(sink, stream)
        import pytest

        os._exit(int(pytest.main([*_PYTEST, *arguments])))
    return os.waitpid(child, 0)[1] == 0


def main(argv: Sequence[str] | None = None) -> int:
    """Print the survivors; 1 when there are any, 2 when the tests fail without a change."""
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__, epilog="The rest goes to pytest.")
    parser.add_argument("file", type=Path, help="below the root of the checkout")
    parser.add_argument(
        "--most", type=int, default=200, metavar="N", help="mutants, chosen at random if there are more"
    )
    parser.add_argument("--part", default="1/1", metavar="I/N", help="the I-th of N equal parts of these")
    parser.add_argument("--minutes", type=float, default=10.0, help="no mutant is begun after them")
    parser.add_argument("--seconds", type=int, default=60, help="for one run of the tests")
    options, arguments = parser.parse_known_args(argv)
    file = options.file.resolve().relative_to(ROOT)
    found = list(mutants((ROOT / file).read_text(encoding="utf-8")))
    chosen = sorted(random.Random(0).sample(found, min(options.most, len(found))), key=lambda each: each.line)
    part, parts = map(int, options.part.split("/"))
    chosen = chosen[part - 1 :: parts]
    arguments = arguments or tests_of(file)
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tried, survivors, end = 0, [], time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in listed.splitlines():
            if (ROOT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, copy / name)
        os.chdir(copy)
        sys.path[:] = [str(copy), *(path for path in sys.path if path not in ("", str(ROOT)))]
        os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True
        sys.modules.pop("tests", None)  # the checkout's, not the copy's
        import fastapi  # noqa: F401 - what most tests import, once for all forks
        import httpx  # noqa: F401
        import numpy as np  # noqa: F401

        if file.parts[0] == "model":
            import torch  # noqa: F401

        if not survives(copy, arguments, options.seconds):
            print(f"{' '.join(arguments)} fails without a change")
            return 2
        for mutant in chosen:
            if time.monotonic() > end:
                break
            (copy / file).write_text(mutant.source, encoding="utf-8")
            tried += 1
            if survives(copy, arguments, options.seconds):
                survivors.append(mutant)
                print(f"{file}:{mutant.line}: {mutant.change}", flush=True)
    done = f"{tried} of {len(chosen)} mutants tried ({len(found)} possible), {len(survivors)} survive"
    print(f"{file}, part {options.part}: {done}; tests: {' '.join(arguments)}")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
