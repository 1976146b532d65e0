"""What the two new processes of a log do (`Trials` of `dspy_demo.versions.store`): each loads the program.

``save FOLDER`` loads it from where its source is and notes which files it opens there: those travel along. It
starts ``load FOLDER``, which loads the result without this app's package and without the program's folders.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FILES_MAX_BYTES = 10_000_000


class Refused(Exception):
    """Its text is the sentence for the user."""


def save(folder: Path) -> None:
    """Write ``result.json``: the files that travel, and a sentence if there is no version."""
    draft: dict[str, Any] = json.loads((folder / "draft.json").read_text())
    path = os.environ["PYTHONPATH"].split(os.pathsep)  # this app's folder is the first
    path = [one for one in path if os.path.realpath(one) not in {path[0], *draft["folders"]}]
    (folder / "empty").mkdir()
    loading = subprocess.Popen(  # noqa: S603 - early: its imports take as long as ours
        [sys.executable, "-P", "-W", "ignore", __file__, "load", str(folder)],
        cwd=folder / "empty",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    files: list[str] = []
    try:
        files = _saved(folder, draft)
        loaded = json.loads(loading.communicate(b"\n")[0].splitlines()[-1])
        missing = next((name for name in files if name not in loaded["opened"]), "")
        refused = loaded["refused"] or (_not_found(missing) if missing else "")
    except BaseException as error:
        refused = _sentence(error, Path([*draft["folders"], folder][0]))
    finally:
        loading.kill()
    (folder / "result.json").write_text(json.dumps({"files": files, "refused": refused}))


def load(folder: Path) -> None:
    """Print what of the version's code folder it opened, and why it does not load."""
    import dspy  # noqa: F401  what every version imports, while the files are being made
    import mlflow.dspy
    import mlflow.pyfunc

    sys.stdin.readline()
    draft, code = json.loads((folder / "draft.json").read_text()), folder / "model" / "code"
    opened, refused = note_opened([code]), ""
    note_opened(draft["folders"], draft["ignored"], refuse=True)
    try:
        mlflow.pyfunc.load_model(str(folder / "model"), suppress_warnings=True)
    except BaseException as error:
        refused = _sentence(error, code)
    print("\n" + json.dumps({"opened": sorted(opened), "refused": refused}), flush=True)  # noqa: T201


def note_opened(
    folders: Sequence[str | Path], ignored: Sequence[str] = (), *, refuse: bool = False
) -> dict[str, Path]:
    """The files below some folders, but not `ignored` ones, that this process opens for reading from now on,
    by the path below them. `refuse` refuses such a file as if it did not exist.
    """
    counted, others = ([Path(one).resolve() for one in some] for some in (folders, ignored))
    found: dict[str, Path] = {}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = Path(os.fsdecode(arguments[0]))
        path = path.parent.resolve() / path.name  # a link stays one
        if path.parent.name == "__pycache__":
            with contextlib.suppress(ValueError):
                path = Path(importlib.util.source_from_cache(str(path)))
        folder = next((folder for folder in counted if path.is_relative_to(folder)), None)
        written = int(arguments[2] or 0) & os.O_ACCMODE == os.O_WRONLY
        if folder is None or written or any(path.is_relative_to(one) for one in others):
            return
        name = path.relative_to(folder).as_posix()
        if refuse and not is_hidden(name):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        found[name] = path

    sys.addaudithook(hook)
    return found


def is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts)


def _saved(folder: Path, draft: Mapping[str, Any]) -> list[str]:
    """Write the model with MLflow's DSPy flavor; the files that travel. No language model is called."""
    import dspy
    import mlflow.dspy

    from dspy_demo.programs.loaded_code import digest
    from dspy_demo.versions.version import METADATA_KEY

    class Renaming(pickle.Unpickler):
        """Takes the version's copies of this app's classes in place of the app's own."""

        def find_class(self, module: str, name: str) -> Any:
            return super().find_class(re.sub(r"^dspy_demo\b", draft["app_name"], module), name)

    code = folder / "code"
    # Only now: nothing there may take the place of a library.
    sys.path[:0] = [*draft["folders"], str(code)]
    opened = note_opened(draft["folders"], draft["ignored"])
    with (folder / "program.pkl").open("rb") as file:
        loaded = Renaming(file).load()
    added = _travelling(dict(opened), code)
    metadata = draft["metadata"]
    metadata["sources"] |= {name: digest(code / name) for name in added}
    # MLflow pickles all of DSPy's settings with it.
    with dspy.context(lm=loaded["lm"], adapter=loaded["adapter"], callbacks=[], disable_history=True):
        mlflow.dspy.save_model(
            loaded["program"],
            str(folder / "model"),
            task="llm/v1/chat",
            signature=_chat_signature(),
            pip_requirements=draft["requirements"],
            code_paths=sorted(str(path) for path in code.iterdir()),
            metadata={METADATA_KEY: metadata},
        )
    return [name for name in added if not name.endswith(".py")]


def _travelling(opened: Mapping[str, Path], code: Path) -> list[str]:
    """Copy what was opened below the program's folder, without what is there already; the names of it."""
    size, added = 0, []
    for name, path in sorted(opened.items()):
        target = code / name
        if target.exists() or is_hidden(name) or path.is_symlink() or not path.is_file():
            continue
        size += path.stat().st_size
        if size > FILES_MAX_BYTES:
            raise Refused(f"The files that the program opens, up to {name}, have more than 10 MB together.")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        added.append(name)
    return added


def _chat_signature() -> Any:
    """MLflow's own for ``llm/v1/chat`` refuses what OpenAI's clients may send: parts of a content, a name."""
    from mlflow.models import ModelSignature
    from mlflow.models.rag_signatures import CHAT_COMPLETION_RESPONSE_SCHEMA
    from mlflow.types.schema import AnyType, Array, ColSpec, DataType, Object, Property, Schema

    content, name = Property("content", AnyType(), False), Property("name", DataType.string, False)
    message = Object([Property("role", DataType.string), content, name])
    return ModelSignature(Schema([ColSpec(Array(message), name="messages")]), CHAT_COMPLETION_RESPONSE_SCHEMA)


def _sentence(error: BaseException, code: Path) -> str:
    """Why it does not load, and in which line below `code`, without the words of the exception."""
    match error:
        case Refused():
            return str(error)
        case FileNotFoundError(filename=name) if name:
            return _not_found(os.fsdecode(name).removeprefix(str(code) + os.sep))
        case ImportError(name=str(name)):
            return (
                f"A new process does not find the module “{name}”. Install it, or put it beside the program."
            )
        case KeyError(args=(str(name), *_)) if name.isidentifier() and name.isupper():
            return (
                f"The program asks for the environment variable {name}, which a version is not given. "
                f"Read it in forward(), or pass it on with --serve-env {name}."
            )
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).resolve().is_relative_to(code.resolve())]
    where = f" in {Path(own[-1].filename).name}, line {own[-1].lineno}" if own else ""
    return f"A new process could not load the program ({type(error).__name__}{where})."


def _not_found(name: str) -> str:
    return (
        f"A new process does not find the file “{name}”. Open it by its place beside the source. "
        "Hidden files, links and files elsewhere do not travel with a version."
    )


if __name__ == "__main__":
    {"save": save, "load": load}[sys.argv[1]](Path(sys.argv[2]))
    os._exit(0)  # taking the libraries apart would take another second
