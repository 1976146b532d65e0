"""The Python source that travels with a version: the modules of the program's classes, with what they import.

Those of this app become a package with a name of its own: nothing in a version imports ``dspy_demo``, whose
modules may move. Packages from an index do not travel: the requirements name them.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import re
import shutil
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

import dspy_demo
from dspy_demo.errors import VersionNotLogged
from dspy_demo.programs.loaded_code import digest, is_users, loaded_digest, note_loaded_code

APP = "dspy_demo"
_PACKAGE = Path(dspy_demo.__path__[0])
_parsing = threading.Lock()  # `ast.parse` may fail where two threads call it at once
#: What loading, answering and serving need; the program's own imports are added to them.
REQUIRED = ("dspy", "mlflow", "litellm", "pydantic", "httpx", "fastapi", "uvicorn", "cloudpickle")


class Sources:
    """The source that a program needs, whose classes and functions come from some modules."""

    def __init__(self, module_names: Iterable[str]) -> None:
        note_loaded_code()
        names = set(module_names)
        own: dict[str, Path] = {}  # a file or a package folder by top-level name
        imported: set[str] = set()
        waiting = {name.partition(".")[0] for name in names}
        while waiting:
            name = waiting.pop()
            if name not in own and (source := _users_source(name)):
                own[name] = source
                found = {one.partition(".")[0] for path in _files(source) for one in _imports(path)}
                imported |= found
                waiting |= found
        self._imported = imported - set(own) - set(sys.stdlib_module_names) - {APP}
        #: The folders from which the user's code is imported.
        self.folders = list(dict.fromkeys(source.parent for source in own.values()))
        found_own = [(path, source.parent) for source in own.values() for path in _files(source)]
        self._own = {path.relative_to(folder).as_posix(): path for path, folder in found_own}
        self._app = {path.relative_to(_PACKAGE.parent).as_posix(): path for path in _app_files(names)}
        #: By the path below the version's code folder, the app's modules under their names here.
        self.digests = {name: digest(path) for name, path in sorted((self._app | self._own).items())}
        changed = (name for name, path in self._own.items() if loaded_digest(path) != self.digests[name])
        if names_changed := ", ".join(sorted(changed)):
            raise VersionNotLogged(
                f"{names_changed} changed after this app loaded it. Start the app again, then log it."
            )
        whole = "".join(f"{name} {self.digests[name]}\n" for name in sorted(self._app))
        #: The package of this app's modules in the version: other code has another name.
        self.app_name = f"{APP}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}"

    def pinned(self, more: set[str]) -> list[str]:
        """The packages that it needs, and `more`, in the versions that are installed here."""
        by_module = metadata.packages_distributions() if self._imported else {}
        more = more | {by_module[root][0] for root in self._imported if root in by_module}
        pins = []
        for name in [*REQUIRED, *sorted(more - set(REQUIRED))]:
            with contextlib.suppress(metadata.PackageNotFoundError):
                pins.append(f"{name}=={metadata.version(name)}")
        return pins

    def copy_to(self, code: Path) -> None:
        for path in self._app.values():
            target = code / self.app_name / path.relative_to(_PACKAGE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(re.sub(rf"\b{APP}\b", self.app_name, path.read_text("utf-8")), "utf-8")
        # This app's own imports more than a version needs.
        (code / self.app_name / "__init__.py").write_text(f'__version__ = "{dspy_demo.__version__}"\n')
        for name, path in self._own.items():
            (code / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, code / name)


def runs_here(digests: Mapping[str, str]) -> bool:
    """Whether this process runs the very code that a version was logged with, by its `Sources.digests`."""
    note_loaded_code()
    roots = {name.partition("/")[0].removesuffix(".py") for name in digests}
    folders = {_PACKAGE.parent, *(source.parent for root in roots if (source := _users_source(root)))}

    def has(path: Path, wanted: str) -> bool:
        return path.is_file() and loaded_digest(path) == wanted

    return all(any(has(folder / name, wanted) for folder in folders) for name, wanted in digests.items())


def _app_files(names: Iterable[str]) -> set[Path]:
    """The files of modules of this app and of those that they import, also inside functions."""
    found: set[Path] = set()
    waiting = set(names)
    while waiting:
        app, *parts = waiting.pop().split(".")
        if app != APP or not parts:
            continue
        place = _PACKAGE.joinpath(*parts)
        path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if path not in found and path.is_file():
            found.add(path)
            waiting |= {".".join([APP, *parts[:-1]]), *_imports(path)}
    return found


def _users_source(name: str) -> Path | None:
    """Where a top-level module's source is, if it is the user's own."""
    try:
        spec = None if name == "__main__" else importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    places = [*(spec.submodule_search_locations or ()), spec.origin] if spec else []
    source = Path((places and places[0]) or "")
    usable = source.suffix in {".py", ""} and source.name and source.exists()
    return source if usable and is_users(source) else None


def _imports(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, also inside functions."""
    try:
        with _parsing:
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # a template, for example
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files(source: Path) -> Iterator[Path]:
    """The source files of a module or package, without hidden ones."""
    for path in [source] if source.is_file() else source.rglob("*.py"):
        if not any(part.startswith(".") for part in path.relative_to(source).parts):
            yield path
