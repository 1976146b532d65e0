"""The Python source that travels with a version, so that it loads where neither app nor program are installed.

Only ``.py`` files: no ``.env``, no data and no credentials file can slip in. Packages from an index do not
travel; they are named in the requirements.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

import dspy_demo

APP = "dspy_demo"
#: Parts of the app that a version never needs.
_LEFT_OUT = frozenset({"ui"})
#: What loading, answering and serving need; the program's own imports are added to them.
REQUIRED = ("dspy", "mlflow", "litellm", "pydantic", "httpx", "fastapi", "uvicorn", "cloudpickle")

_staged: tempfile.TemporaryDirectory[str] | None = None
_lock = threading.Lock()


def app_source() -> Path:
    """A copy of this package's source, made once per process: the version gets what is running."""
    global _staged
    with _lock:
        if _staged is None:
            _staged = tempfile.TemporaryDirectory(prefix="dspy-demo-code-", ignore_cleanup_errors=True)
            root = Path(next(iter(dspy_demo.__path__)))
            _copy_package(root, Path(_staged.name) / APP, leave_out=_LEFT_OUT)
        return Path(_staged.name) / APP


class OwnCode:
    """The source of a user's program: its module, and the modules beside it that it uses.

    Args:
        module_names: Where its classes come from.
    """

    def __init__(self, module_names: set[str]) -> None:
        self.modules = _reached(module_names)
        self.roots = {module.__name__.partition(".")[0] for module in self.modules}
        self.requirements = _foreign_distributions(self.modules)

    @property
    def folder(self) -> Path | None:
        """A folder of the program's source, for its git commit."""
        return next((Path(str(module.__file__)).parent for module in self.modules), None)

    def copy_to(self, folder: Path) -> list[Path]:
        """Copy it, package by package; the paths are for ``code_paths``."""
        copied = []
        for name in sorted(self.roots):
            top = sys.modules[name]
            if getattr(top, "__path__", None):
                _copy_package(Path(next(iter(top.__path__))), folder / name)
                copied.append(folder / name)
            else:
                copied.append(Path(shutil.copyfile(str(top.__file__), folder / f"{name}.py")))
        return copied


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


def _reached(module_names: set[str]) -> list[ModuleType]:
    """The modules of the user's that `module_names` are, or lead to by what they hold."""
    waiting = sorted(module_names)
    reached: dict[str, ModuleType] = {}
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        if name in reached or module is None or not _is_users(module):
            continue
        reached[name] = module
        waiting += _used_by(module)
    return list(reached.values())


def _used_by(module: ModuleType) -> Iterator[str]:
    for value in list(vars(module).values()):
        if isinstance(value, ModuleType):
            yield value.__name__
        elif isinstance(name := getattr(value, "__module__", None), str):
            yield name


def _is_users(module: ModuleType) -> bool:
    """Whether its source is neither ours, nor installed, nor Python's."""
    file = getattr(module, "__file__", None)
    if not file or not file.endswith(".py") or module.__name__.partition(".")[0] in {APP, "__main__"}:
        return False
    return not any(Path(file).is_relative_to(path) for path in _installed_paths())


@cache
def _installed_paths() -> tuple[str, ...]:
    return tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def _foreign_distributions(modules: list[ModuleType]) -> set[str]:
    """The installed packages that the user's modules import."""
    used = {name.partition(".")[0] for module in modules for name in _used_by(module)}
    used -= set(sys.stdlib_module_names) | {APP}
    return {found[0] for name in used if (found := _distributions().get(name))} if used else set()


def _copy_package(source: Path, target: Path, *, leave_out: frozenset[str] = frozenset()) -> None:
    for path in source.rglob("*.py"):
        relative = path.relative_to(source)
        if relative.parts[0] in leave_out or any(part.startswith(".") for part in relative.parts):
            continue
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / relative)
