"""What `scripts/mutate` changes, and what it finds."""

from __future__ import annotations

import ast

import pytest

from tests.mutate import mutants

SOURCE = '''
"""A text."""

def first(values: list[int], limit: int = 2) -> int:
    """A text."""
    if not values or len(values) > limit:
        raise ValueError("too many")
    total = 0
    for value in values:
        total += value
    print(total)
    return total
'''


def test_one_thing_is_changed_at_a_time() -> None:
    """All of it that could matter, in an order that is the file's."""
    changes = [mutant.change for mutant in mutants(SOURCE)]
    assert sorted(changes) == sorted(
        [
            "2 -> 3",
            "Or -> And",
            "not values -> values",
            "Gt -> GtE",
            "raise ValueError('too many') -> pass",
            "0 -> 1",
            "total += value -> pass",
            "Add -> Sub",
            "print(total) -> pass",
            "return total -> return None",
        ]
    )


def test_each_mutant_is_the_source_with_one_difference() -> None:
    """It parses, and the next begins with the source as it was."""
    whole = ast.unparse(ast.parse(SOURCE))
    lines = whole.splitlines()
    for mutant in mutants(SOURCE):
        changed = ast.unparse(ast.parse(mutant.source)).splitlines()
        assert sum(a != b for a, b in zip(lines, changed, strict=True)) == 1, mutant.change


@pytest.mark.parametrize("source", ['x: int = "a"', '"""A text."""', "def f(x: tuple[int, ...]) -> None: return None"])
def test_texts_and_types_are_left_alone(source: str) -> None:
    """No test should depend on them."""
    assert list(mutants(source)) == []
