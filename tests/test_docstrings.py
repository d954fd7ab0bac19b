"""The law of docstrings that ruff's rules do not state: a public function with two or more parameters explains them.

Ruff (``D``, Google's convention) looks at the form of docstrings and at sections that are there; that a section is
there is looked at here, on the syntax trees.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "compress"
# Rooms, and files that lie directly in the package, whose functions do not explain all parameters yet. This list only
# shrinks: delete a room when it is done, together with its line in pyproject.toml.
NOT_YET: set[str] = set()
# Methods that torch's classes ask for: what they take is said there.
OF_TORCH = {"forward", "backward", "setup_context"}
# Each makes its function a command of the command line, whose parameters are explained by their help texts.
CLICK = {"command", "group", "argument", "option", "with_options", "callback"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0]


def sources() -> list[Path]:
    """Every file of the package, in linked rooms too (``rglob`` does not follow links)."""
    folders = [entry for entry in PACKAGE.iterdir() if entry.is_dir()]
    return sorted({*PACKAGE.glob("*.py"), *(file for folder in folders for file in all_in(folder))})


def all_in(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from all_in(entry)
        elif entry.suffix == ".py":
            yield entry


def last_name(node: ast.expr) -> str:
    """The last part of a name: ``option`` of ``@click.option("--n")``, ``Task`` of ``base.Task``."""
    if isinstance(node, ast.Call):
        return last_name(node.func)
    if isinstance(node, ast.Subscript):
        return last_name(node.value)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def functions_in(body: list[ast.stmt]) -> list[Function]:
    return [node for node in body if isinstance(node, Function)]


def is_public(node: Function | ast.ClassDef) -> bool:
    return not node.name.startswith("_")


def parameters(function: Function, *, method: bool) -> list[str]:
    """Names of a function's parameters, ``self`` and ``cls`` apart."""
    of = function.args
    names = [argument.arg for argument in (*of.posonlyargs, *of.args, *of.kwonlyargs, of.vararg, of.kwarg) if argument]
    bound = method and "staticmethod" not in map(last_name, function.decorator_list)
    return names[1:] if bound else names


class Classes:
    """All classes of the package by name: which methods each defines, and what it derives from."""

    def __init__(self, trees: list[ast.Module]) -> None:
        self.bases: dict[str, set[str]] = {}
        self.methods: dict[str, set[str]] = {}
        for tree in trees:
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    self.bases.setdefault(node.name, set()).update(map(last_name, node.bases))
                    self.methods.setdefault(node.name, set()).update(f.name for f in functions_in(node.body))

    def overrides(self, class_name: str, method: str) -> bool:
        """Whether a base class of the package, however far up, has the method."""
        seen, waiting = {class_name}, list(self.bases[class_name])
        while waiting:
            base = waiting.pop()
            if base in seen:
                continue
            seen.add(base)
            if method in self.methods.get(base, ()):
                return True
            waiting += self.bases.get(base, ())
        return False


def refers(function: Function, classes: Classes) -> bool:
    """Whether a docstring leads to the method of a protocol that explains the parameters: ``See ``Mask``.``"""
    found = re.match(r"See ``(\w+)``", ast.get_docstring(function) or "")
    return bool(found) and function.name in classes.methods.get(found[1], ())


def unexplained(tree: ast.Module, classes: Classes) -> list[str]:
    """The public functions and methods of a module that owe their readers a docstring with ``Args:``."""
    found = []
    for function in functions_in(tree.body):
        if is_public(function) and owes(function, method=False):
            found.append(f"line {function.lineno}: {function.name}")
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and is_public(node):
            for function in functions_in(node.body):
                of_torch = function.name in OF_TORCH and bool(node.bases)
                inherits = of_torch or classes.overrides(node.name, function.name)
                inherits = inherits or refers(function, classes)
                if is_public(function) and not inherits and owes(function, method=True):
                    found.append(f"line {function.lineno}: {node.name}.{function.name}")
    return found


def owes(function: Function, *, method: bool) -> bool:
    decorators = set(map(last_name, function.decorator_list))
    if decorators & (CLICK | {"overload", "setter", "override"}):
        return False
    text = ast.get_docstring(function)
    if text is None:
        return True
    return len(parameters(function, method=method)) >= 2 and "Args:" not in text.splitlines()


TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in sources()}
CLASSES = Classes(list(TREES.values()))


@pytest.mark.parametrize("room", sorted({room_of(file) for file in TREES} - NOT_YET))
def test_public_functions_explain_their_parameters(room: str) -> None:
    found = {
        str(file.relative_to(PACKAGE)): names
        for file, tree in TREES.items()
        if room_of(file) == room and (names := unexplained(tree, CLASSES))
    }
    assert not found, f"without a docstring, or with two or more parameters and no 'Args:': {found}"


def test_only_rooms_that_exist_are_excused() -> None:
    assert {room_of(file) for file in TREES} >= NOT_YET


def test_what_counts() -> None:
    source = '''
def two(a, b):
    """Two, not explained."""

def explained(a, *, b=None):
    """Two.

    Args:
        a: one.
        b: another.
    """

def one(a):
    """One needs no section."""

def bare():
    pass

def _private(a, b):
    pass

@click.command()
@click.option("--b")
def called(a, b):
    """A command."""

class Base:
    def act(self, a, b):
        """Two, not explained."""

    @staticmethod
    def free(a, b):
        """Two, not explained."""

class Derived(Base):
    def act(self, a, b):
        pass

    def own(self, a):
        """One."""

class Layer(nn.Module):
    def forward(self, a, b):
        pass
'''
    tree = ast.parse(source)
    found = [line.split(": ")[1] for line in unexplained(tree, Classes([tree]))]
    assert found == ["two", "bare", "Base.act", "Base.free"]
