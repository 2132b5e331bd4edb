"""Imports go down only, and heavy packages are imported in one place each."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the ground up; a module may import from its own level's package and from any level below.
LEVELS = [
    {"errors"},
    {
        "affine",
        "arguments",
        "atomic",
        "blocks",
        "data",
        "dtypes",
        "isolation",
        "moments",
        "nodes",
        "providers",
        "wire",
    },
    {"source"},
    {"payloads"},
    {"external"},
    {"tensors"},
    {"content"},
    {"datafile"},
    {"io"},
    {"graph", "inlining"},
    {"edits"},
    {"shapes"},
    {"constants"},
    {"models", "report", "runtime"},
    {"probing"},
    {"diagnosis"},
    {"outcome", "statistics"},
    {"adain", "folding", "norms"},
    {"validation"},
    {"fixing"},
    {"recalibration", "unfolding"},
    {"conversion"},
    {"inspection"},
    {"pytorch"},
    {"__init__"},
]
ONLY_IN = {"onnxruntime": {"runtime"}, "torch": {"pytorch"}, "click": set(), "rich": set()}


def level(name: str) -> int:
    return next((i for i, names in enumerate(LEVELS) if name in names), -1)


def sources() -> list[Path]:
    return sorted((ROOT / "normsurgery").rglob("*.py"))


def owner(path: Path) -> str:
    """Return the module or package directly under normsurgery that a file belongs to."""
    return path.relative_to(ROOT / "normsurgery").parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield every imported module and whether only a type checker imports it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, id(node) in for_types


def test_every_module_has_a_level() -> None:
    assert {owner(path) for path in sources()} == set().union(*LEVELS)


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    here = owner(path)
    for name, for_types in imports(path):
        parts = name.split(".")
        if parts[0] in ONLY_IN and not for_types:
            assert here in ONLY_IN[parts[0]], f"{name} is imported outside its place"
        if parts[0] == "normsurgery_cli":
            pytest.fail("the library imports the command line")
        if parts[0] == "normsurgery" and len(parts) > 1 and not for_types:
            other = parts[1]
            if level(other) >= 0 and other != here:
                assert level(other) < level(here), f"{here} imports {other}, which is above it"


def test_the_command_line_imports_only_the_library() -> None:
    for path in (ROOT / "cli").rglob("*.py"):
        for name, for_types in imports(path):
            root = name.split(".")[0]
            assert for_types or root not in {"onnx", "onnxruntime", "numpy", "torch"}, name
