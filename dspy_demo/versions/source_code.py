"""The Python source that travels with a version, so that it loads where neither app nor program is.

Packages from an index do not travel; they are named in the requirements. Other files travel where the
program opens them while it is loaded: see `dspy_demo.versions.saving`.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import hashlib
import importlib.util
import shutil
import sys
import tempfile
import threading
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path, PurePosixPath

import dspy_demo
from dspy_demo.programs.loaded_code import digest, is_users, loaded_digest, note_loaded_code

APP = "dspy_demo"
#: The part of the app that answers. The page, the routes and the servers stay here: fifty files less to copy.
_TRAVELS = frozenset(
    {
        "__init__.py",
        "adapters.py",
        "dspy_bridge.py",
        "errors.py",
        "events.py",
        "settings.py",
        "lm",
        "programs",
    }
)
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


@cache
def app_digest() -> str:
    """One digest of all of `app_source`."""
    source, whole = app_source(), hashlib.sha256()
    for path in sorted(_files(source)):
        whole.update(f"{path.relative_to(source)} {digest(path)}\n".encode())
    return whole.hexdigest()


class OwnCode:
    """The source of a user's program: the modules of its classes, and those that they import.

    Args:
        module_names: Where its classes come from; those of the app and of installed packages are left out.

    Attributes:
        sources: File or package folder by top-level name.
        requirements: The installed packages that it imports.
    """

    def __init__(self, module_names: Iterable[str]) -> None:
        note_loaded_code()
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
    def folders(self) -> list[Path]:
        """The folders from which it is imported."""
        return list(dict.fromkeys(source.parent for source in self.sources.values()))

    @property
    def changed(self) -> list[str]:
        """The files whose source is another than the one that this process loaded."""
        return sorted(path.name for path in self._paths() if loaded_digest(path) != digest(path))

    @property
    def words(self) -> set[str]:
        """Every name in it: of variables, functions, modules."""
        return {name for path in self._paths() for name in _names(path)}

    @property
    def digests(self) -> dict[str, str]:
        """By the path below the version's code folder; with one entry for the app's part."""
        own = {
            path.relative_to(source.parent).as_posix(): digest(path)
            for source in self.sources.values()
            for path in _files(source)
        }
        return {APP: app_digest(), **own}

    def copy_to(self, code: Path) -> None:
        """Copy it, and the part of the app that a version needs, into a folder."""
        shutil.copytree(app_source(), code / APP)
        for source in self.sources.values():
            if source.is_dir():
                _copy_package(source, code / source.name)
            else:
                shutil.copyfile(source, code / source.name)

    def _paths(self) -> Iterator[Path]:
        for source in self.sources.values():
            yield from _files(source)


def runs_here(digests: Mapping[str, str]) -> bool:
    """Whether this process runs the very code that a version was logged with.

    Args:
        digests: Those of the version, as `OwnCode.digests` gives them, with the files that it opened.
    """
    if digests.get(APP) != app_digest():
        return False
    own = {name: wanted for name, wanted in digests.items() if name != APP}
    if own:
        note_loaded_code()
    modules = {PurePosixPath(name).parts[0].removesuffix(".py") for name in own}
    folders = {source.parent for name in modules if (source := _users_source(name))}
    return all(_any_has(folders, name, wanted) for name, wanted in own.items())


def _any_has(folders: Iterable[Path], name: str, wanted: str) -> bool:
    for folder in folders:
        try:
            if loaded_digest(folder / name) == wanted:
                return True
        except OSError:
            continue
    return False


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
    return source if is_users(source) else None


def _imports(path: Path) -> Iterator[str]:
    """The top-level names that a file imports, also inside functions; not its own package's.

    A file that Python cannot read, such as a template, imports nothing.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.partition(".")[0]


def _names(path: Path) -> Iterator[str]:
    """The names in a source, as far as Python can read it; nothing from its texts and comments."""
    with path.open("rb") as file, contextlib.suppress(SyntaxError, tokenize.TokenError):
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.NAME:
                yield token.string


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
