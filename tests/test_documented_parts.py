"""Outside the bridges only documented parts of the libraries are used; a new name is looked up."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
CODE = sorted((ROOT / "dspy_demo").rglob("*.py"))
LIBRARIES = {"dspy", "gradio", "mlflow", "starlette", "uvicorn"}
#: What the libraries' own documentation names.
DOCUMENTED: dict[str, str] = {}


def is_bridge(path: Path) -> bool:
    return path.stem.endswith("_bridge")


def names_of(path: Path) -> Iterator[str]:
    """Every dotted name of a library that a module imports or reaches through what it imported."""
    tree = ast.parse(path.read_text())
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                known[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            parts: list[str] = []
            inner: ast.expr = node
            while isinstance(inner, ast.Attribute):
                parts.append(inner.attr)
                inner = inner.value
            if isinstance(inner, ast.Name) and inner.id in known:
                yield ".".join([known[inner.id], *reversed(parts)])


if __name__ == "__main__":
    found = {}
    for path in CODE:
        if is_bridge(path):
            continue
        for name in names_of(path):
            if name.partition(".")[0] in LIBRARIES:
                found.setdefault(name, set()).add(path.relative_to(ROOT / "dspy_demo").as_posix())
    for name, where in sorted(found.items()):
        print(name, *sorted(where)[:3])
