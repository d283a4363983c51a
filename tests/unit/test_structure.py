"""The shape of the code: few public names, short functions, small classes. Run with ``-s`` to see the figures."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

REPOSITORY: Final = Path(__file__).parents[2]
FOLDERS: Final = ("mirror", "service", "worker")
MOST_NAMES: Final = 25
"""Public top-level classes and functions per 1 000 lines."""
MOST_LINES: Final = 45
"""Lines of a function, with its signature and docstring."""
MOST_METHODS: Final = 15
MOST_ARGUMENTS: Final = 7
"""Arguments of a constructor. Values, such as records, may have more fields."""
STRAIGHT_LIST: Final = "mirror/wiring.py:build"
"""The one function that may be longer: a straight list of constructors, which is read from top to bottom."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def modules() -> tuple[tuple[str, ast.Module, int], ...]:
    """Return each module's path, its tree and its lines."""
    paths = [path for folder in FOLDERS for path in sorted((REPOSITORY / folder).rglob("*.py"))]
    texts = {str(path.relative_to(REPOSITORY)): path.read_text() for path in paths}
    return tuple((path, ast.parse(text), text.count("\n")) for path, text in texts.items())


def functions() -> Iterator[tuple[int, str]]:
    """Yield the lines of each function, and its place."""
    for path, tree, _ in modules():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield (node.end_lineno or 0) - node.lineno + 1, f"{path}:{node.name}"


def methods_of(definition: ast.ClassDef) -> list[Function]:
    return [node for node in definition.body if isinstance(node, Function)]


def arguments_of(definition: ast.ClassDef) -> int:
    """Count the arguments of ``__init__``, without ``self``."""
    found = next((method for method in methods_of(definition) if method.name == "__init__"), None)
    return len(found.args.posonlyargs + found.args.args + found.args.kwonlyargs) - 1 if found else 0


def test_public_names_are_few() -> None:
    lines = names = 0
    for _, tree, count in modules():
        lines += count
        names += sum(isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_") for node in tree.body)
    figure = 1000 * names / lines
    print(f"{names} public classes and functions in {lines} lines: {figure:.1f} per 1 000 lines")
    assert figure < MOST_NAMES


def test_functions_are_short() -> None:
    longest = sorted(functions(), reverse=True)[:2]
    print("the longest functions:", ", ".join(f"{place} ({lines} lines)" for lines, place in longest))
    assert [place for lines, place in longest if lines > MOST_LINES] in ([], [STRAIGHT_LIST])


@pytest.mark.parametrize(("limit", "what"), [(MOST_METHODS, "methods"), (MOST_ARGUMENTS, "arguments")])
def test_classes_are_small(limit: int, what: str) -> None:
    found = {
        f"{path}:{node.name}": len(methods_of(node)) if what == "methods" else arguments_of(node)
        for path, tree, _ in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    largest = {name: count for name, count in found.items() if count > limit}
    print(f"classes with more than {limit} {what}: {largest or 'none'}")
    assert largest == {}
