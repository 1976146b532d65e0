"""``python -m dspy_demo.versions.saving FOLDER``: make an MLflow model of a draft, and load it once more.

A process of its own, started by `dspy_demo.versions.trial`. It loads the program from where its source is and
sees which files it opens there: those travel along. MLflow then saves all of it, with DSPy's settings as a
new process has them. `fresh_load` loads the result in another new process.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from dspy_demo.programs.loaded_code import digest
from dspy_demo.versions import fresh_load
from dspy_demo.versions.fresh_load import OpenedFiles, failure, is_hidden
from dspy_demo.versions.sources import in_version
from dspy_demo.versions.version import METADATA_KEY

#: What the files beside a program's source may have in all.
FILES_MAX_BYTES = 10_000_000


def main(folder: Path) -> int:
    """Write ``result.json`` into `folder`: the files that travel, or a sentence why there is no version."""
    draft: dict[str, Any] = json.loads((folder / "draft.json").read_text())
    result: dict[str, Any] = {"files": [], "refused": "", "frames": []}
    with _fresh_process(folder, draft) as fresh:
        try:
            result["files"] = _saved(folder, draft)
            failed = _loads_elsewhere(fresh, folder, draft, result["files"])
        except _Refused as error:
            failed = {"sentence": str(error), "frames": []}
        except BaseException as error:
            failed = failure(error, draft["folders"][0] if draft["folders"] else str(folder))
        finally:
            fresh.kill()
    if failed is not None:
        refused = failed.get("sentence") or _sentence(failed, folder)
        result |= {"refused": refused, "frames": failed["frames"]}
    (folder / "result.json").write_text(json.dumps(result))
    return 0


class _Refused(Exception):
    """The sentence for the user."""


class _Renaming(pickle.Unpickler):
    """Takes the version's copies of this app's classes, so that the version refers to those."""

    def __init__(self, file: IO[bytes], app_name: str) -> None:
        super().__init__(file)
        self._app_name = app_name

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(in_version(module, self._app_name), name)


def _saved(folder: Path, draft: dict[str, Any]) -> list[str]:
    """Write the model with MLflow's DSPy flavor; the files that travel. No language model is called."""
    import dspy
    import mlflow.dspy

    settings = dict(dspy.settings.config)
    code = folder / "code"
    # Only now: nothing there may take the place of a library.
    sys.path[:0] = [*draft["folders"], str(code)]
    opened = OpenedFiles(draft["folders"], draft["ignored"])
    opened.active = True
    with (folder / "program.pkl").open("rb") as file:
        loaded = _Renaming(file, draft["app_name"]).load()
    opened.active = False
    added = _travelling(opened.found, code)
    sources = draft["sources"] | {name: digest(code / name) for name in added}
    # MLflow pickles all of DSPy's settings. What the program's modules configured stays out: there may be
    # keys in it, and they will configure it again.
    configured = dict.fromkeys(set(dspy.settings.config) - set(settings))
    ours = {"lm": loaded["lm"], "adapter": loaded["adapter"], "callbacks": [], "disable_history": True}
    with dspy.context(**configured, **(settings | ours)):
        mlflow.dspy.save_model(
            loaded["program"],
            str(folder / "model"),
            task="llm/v1/chat",
            signature=chat_signature(),
            pip_requirements=draft["requirements"],
            code_paths=sorted(str(path) for path in code.iterdir()),
            metadata={METADATA_KEY: draft["metadata"] | {"sources": sources}},
        )
    return [name for name in added if not name.endswith(".py")]


def _travelling(opened: dict[str, Path], code: Path) -> list[str]:
    """Copy what was opened below the program's folder, without what is there already; the names of it."""
    size, added = 0, []
    for name, path in sorted(opened.items()):
        target = code / name
        if target.exists() or is_hidden(name) or path.is_symlink() or not path.is_file():
            continue
        size += path.stat().st_size
        if size > FILES_MAX_BYTES:
            raise _Refused(
                "The files that the program opens beside its source have more than "
                f"{FILES_MAX_BYTES // 1_000_000} MB together, so it was not logged. The last one was {name}."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        added.append(name)
    return added


def chat_signature() -> Any:
    """OpenAI's messages in, MLflow's choices out.

    MLflow's own for ``llm/v1/chat`` refuses what OpenAI's clients may send: the parts of a content, a name.
    """
    from mlflow.models import ModelSignature
    from mlflow.models.rag_signatures import CHAT_COMPLETION_RESPONSE_SCHEMA
    from mlflow.types.schema import AnyType, Array, ColSpec, DataType, Object, Property, Schema

    content, name = Property("content", AnyType(), False), Property("name", DataType.string, False)
    message = Object([Property("role", DataType.string), content, name])
    return ModelSignature(Schema([ColSpec(Array(message), name="messages")]), CHAT_COMPLETION_RESPONSE_SCHEMA)


def _fresh_process(folder: Path, draft: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start it early: its imports take as long as ours."""
    (folder / "empty").mkdir()
    return subprocess.Popen(  # noqa: S603 - the app's own script
        [sys.executable, "-P", "-W", "ignore", fresh_load.__file__, str(folder / "fresh.json")],
        cwd=folder / "empty",
        env=os.environ | {"PYTHONPATH": draft["python_path"]},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _loads_elsewhere(
    fresh: subprocess.Popen[bytes], folder: Path, draft: dict[str, Any], files: list[str]
) -> dict[str, Any] | None:
    """Why the saved model does not load in a new process, or None where it does."""
    asked = {"model": str(folder / "model"), "folders": draft["folders"], "ignored": draft["ignored"]}
    fresh.communicate(json.dumps(asked).encode() + b"\n")
    if not (folder / "fresh.json").exists():
        raise _Refused("A new process ended while it loaded the program, so it was not logged.")
    report = json.loads((folder / "fresh.json").read_text())
    if report["failure"]:
        return dict(report["failure"])
    for name in files:
        if name not in report["opened"]:
            return {"kind": "", "file": name, "frames": []}
    return None


def _sentence(failed: dict[str, Any], folder: Path) -> str:
    """What to tell the user, with what to do."""
    if name := failed["file"]:
        code = str(folder / "model" / "code") + os.sep
        return (
            f"A new process does not find the file “{name.removeprefix(code)}”, so nothing was logged. "
            "Open it by its place beside the source, as in Path(__file__).parent / “data.json”. "
            "Hidden files, links and files elsewhere do not travel with a version."
        )
    if failed["module"]:
        return (
            f"A new process does not find the Python module “{failed['module']}”, so it was not logged. "
            "Install it, or put it beside the program."
        )
    if failed["variable"]:
        return (
            f"The program asks for the environment variable {failed['variable']}, which the process of a "
            "version is not given, so it was not logged. Read it in forward(), or pass it on with "
            f"--serve-env {failed['variable']}."
        )
    where = f" in {failed['where']}" if failed["where"] else ""
    return (
        f"A new process could not load the program ({failed['kind']}{where}), so it was not logged. "
        "Make it loadable from its source alone."
    )


if __name__ == "__main__":
    exit_code = main(Path(sys.argv[1]))
    os._exit(exit_code)  # taking the libraries apart would take another second
