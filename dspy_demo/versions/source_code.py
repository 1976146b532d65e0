"""The Python source that travels with a version, so that it loads where neither app nor program is.

Only ``.py`` files: no ``.env``, no data and no credentials file can slip in. Packages from an index do not
travel; they are named in the requirements.
"""

from __future__ import annotations

import ast
import atexit
import importlib.util
import shutil
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path

import dspy_demo

APP = "dspy_demo"
#: The part of the app that answers. The page, the routes and the servers stay here: fifty files less to copy.
_TRAVELS = frozenset({"__init__.py", "errors.py", "events.py", "settings.py", "lm", "programs"})
#: What loading, answering and serving need; the program's own imports are added to them.
REQUIRED = ("dspy", "mlflow", "litellm", "pydantic", "httpx", "fastapi", "uvicorn", "cloudpickle")

_staged: Path | None = None
_lock = threading.Lock()


def app_source() -> Path:
    """A copy of this package's source as far as a version needs it, made once per process."""
    global _staged
    with _lock:
        if _staged is None:
            folder = Path(tempfile.mkdtemp(prefix="dspy-demo-code-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            _copy_package(Path(next(iter(dspy_demo.__path__))), folder / APP, only=_TRAVELS)
            _staged = folder / APP
        return _staged


class OwnCode:
    """The source of a user's program: the modules of its classes, and those that they import.

    Args:
        module_names: Where its classes come from; those of the app and of installed packages are left out.

    Attributes:
        sources: File or package folder by top-level name.
        requirements: The installed packages that it imports.
    """

    def __init__(self, module_names: Iterable[str]) -> None:
        self.sources: dict[str, Path] = {}
        imported: set[str] = set()
        waiting = {name.partition(".")[0] for name in module_names}
        while waiting:
            name = waiting.pop()
            source = _users_source(name)
            if source is None or name in self.sources:
                continue
            self.sources[name] = source
            found = {root for path in _files(source) for root in _imports(path)}
            imported |= found
            waiting |= found
        self.requirements = _distributions_of(imported - set(self.sources))

    @property
    def folder(self) -> Path | None:
        """A folder of the program's source, for its git commit."""
        return next((source.parent for source in self.sources.values()), None)

    @contextmanager
    def copied(self) -> Iterator[list[str]]:
        """A copy of it, as paths for MLflow's ``code_paths``."""
        if not self.sources:
            yield []
            return
        with tempfile.TemporaryDirectory(prefix="dspy-demo-own-") as folder:
            for source in self.sources.values():
                if source.is_dir():
                    _copy_package(source, Path(folder, source.name))
                else:
                    shutil.copyfile(source, Path(folder, source.name))
            yield sorted(str(path) for path in Path(folder).iterdir())


def requirements(extra: set[str]) -> list[str]:
    """Pinned to what is installed now."""
    names = [*REQUIRED, *sorted(extra - set(REQUIRED))]
    return [f"{name}=={version}" for name in names if (version := _installed(name))]


@cache
def _installed(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


def _distributions_of(roots: set[str]) -> set[str]:
    roots = roots - set(sys.stdlib_module_names) - {APP}
    return {found[0] for root in roots if (found := _distributions().get(root))} if roots else set()


def _users_source(name: str) -> Path | None:
    """Where a top-level module's source is, unless it is ours, installed or Python's."""
    if name in sys.stdlib_module_names or name in {APP, "__main__"} or not name.isidentifier():
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    folders = list(spec.submodule_search_locations or [])
    source = Path(folders[0] if folders else spec.origin or "")
    if source.suffix not in {".py", ""} or not source.exists() or not source.name:
        return None
    return None if any(source.is_relative_to(path) for path in _installed_paths()) else source


@cache
def _installed_paths() -> tuple[str, ...]:
    return tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def _imports(path: Path) -> Iterator[str]:
    """The top-level names that a file imports, also inside functions; not its own package's."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.partition(".")[0]


def _files(source: Path) -> Iterator[Path]:
    """The source files of a module or package, without hidden ones."""
    if source.is_file():
        yield source
        return
    for path in source.rglob("*.py"):
        if not any(part.startswith(".") for part in path.relative_to(source).parts):
            yield path


def _copy_package(source: Path, target: Path, *, only: frozenset[str] = frozenset()) -> None:
    for path in _files(source):
        relative = path.relative_to(source)
        if not only or relative.parts[0] in only:
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / relative)
