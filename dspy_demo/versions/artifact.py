"""A program on its way into a version, and out of it again."""

from __future__ import annotations

import contextvars
import io
import json
import pickle
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import dspy

import dspy_demo
from dspy_demo.adapters import adapter_for
from dspy_demo.errors import VersionNotLogged
from dspy_demo.events import LMChoice
from dspy_demo.lm.choices import DEMO_MODEL
from dspy_demo.lm.local.files import PREFIX, find, record
from dspy_demo.lm.local.runtime import MODULE as RUNTIME
from dspy_demo.mlflow_bridge import read_program
from dspy_demo.programs.chat_program import ChatProgram
from dspy_demo.programs.own import spec_of
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.settings import Settings
from dspy_demo.versions.secrets import cleaned_lm, public_url, secret_held, secret_sentence
from dspy_demo.versions.sources import Sources
from dspy_demo.versions.version import FORMAT

#: What a version notes of a spec and of a choice.
SPEC_FIELDS = ("name", "title", "description", "chat_field", "history_field", "answer_field")
LM_FIELDS = ("model", "api_base", "temperature", "max_tokens", "cache")


class Draft:
    """What `new_process` makes a version of: copied and cleaned, so that turns go on meanwhile. `removed` is
    what was taken out of the language models that it holds, each with a name to show.
    """

    def __init__(
        self, spec: ProgramSpec, module: dspy.Module, choice: LMChoice, *, adapter: str, settings: Settings
    ) -> None:
        self.spec, self.adapter, self._data_dir = spec, adapter, settings.data_dir.expanduser()
        self._file: dict[str, Any] | None = None
        lm = self._portable_lm(choice, settings)
        chat, answer = spec.chat_field, spec.answer_field or next(iter(spec.outputs), None)
        program = ChatProgram(module, chat_field=chat, history_field=spec.history_field, answer_field=answer)
        copy, lms, self.removed = _copy(program, spec.title)
        self.models = {self.choice.model, *(held.model for held in lms)}
        self._pickle = cloudpickle.dumps({"program": copy, "lm": lm, "adapter": adapter_for(adapter)})
        reader = _Reader(self._pickle)
        reader.load()
        self.sources = Sources(reader.modules)

    def _portable_lm(self, choice: LMChoice, settings: Settings) -> dspy.LM:
        """The model of a version: without a key, which it finds in the server's environment."""
        self.choice = choice = replace(choice, api_base=public_url(choice.api_base), api_key=None)
        given: dict[str, Any] = {"temperature": choice.temperature, "max_tokens": choice.max_tokens}
        given = {name: value for name, value in given.items() if value is not None}
        if choice.model == DEMO_MODEL:
            from dspy_demo.lm.demo_engine import demo_lm

            return demo_lm(**given)
        if choice.model.startswith(PREFIX):
            from dspy_demo.lm.local.engine import local_lm

            file = find(choice.model, settings).identified()
            self._file, self.choice = record(file), replace(choice, model=file.model)
            return local_lm(file, context_tokens=settings.local_context_tokens, cache=choice.cache, **given)
        client = {"api_base": choice.api_base} if choice.api_base else {}
        return dspy.LM(choice.model, cache=choice.cache, num_retries=settings.lm_retries, **client, **given)

    def write(self, folder: Path) -> None:
        """Write all of it where `new_process` reads it."""
        (folder / "code").mkdir()
        self.sources.copy_to(folder / "code")
        (folder / "program.pkl").write_bytes(self._pickle)
        # Below these no file is the program's.
        ignored = [folder, sys.prefix, sys.base_prefix, self._data_dir, *dspy_demo.__path__]
        draft = {
            "metadata": self._metadata(),
            "requirements": self.sources.pinned({RUNTIME} if self._file else set()),
            "folders": [str(path) for path in self.sources.folders],
            "ignored": [str(path) for path in ignored],
            "app_name": self.sources.app_name,
        }
        (folder / "draft.json").write_text(json.dumps(draft))

    def _metadata(self) -> dict[str, Any]:
        """How a turn of this version runs; `FORMAT` is the number of this form."""
        lm = {name: getattr(self.choice, name) for name in LM_FIELDS}
        program = {name: getattr(self.spec, name) for name in SPEC_FIELDS}
        return {
            "format": FORMAT,
            "app_version": dspy_demo.__version__,
            "program": program | {"outputs": self.spec.outputs, "examples": self.spec.examples},
            "adapter": self.adapter,
            "lm": lm | ({"file": self._file} if self._file else {}),
            "sources": self.sources.digests,
        }

    def tags(self, files: Sequence[str]) -> dict[str, str]:
        """How the version runs, where it comes from, what travels with it."""
        tags = {name: getattr(self.choice, name) for name in ("temperature", "max_tokens", "api_base")} | {
            "program": self.spec.name,
            "lm": self.choice.model,
            "adapter": self.adapter,
            "app_version": dspy_demo.__version__,
            "files": "\n".join(files)[:1000],
        }
        return {name: str(value) for name, value in tags.items() if value not in (None, "")}


def _copy(program: ChatProgram, title: str) -> tuple[ChatProgram, list[dspy.LM], dict[str, str]]:
    """A program without keys, traces and callbacks; the language models that it holds, cleaned; and what was
    taken out of them. It goes through a pickle, so every language model is met, wherever it is held.
    """
    writer = _Writer()
    try:
        writer.dump(program)
        copy: ChatProgram = _Reader(writer.file.getvalue(), writer.lms).load()
    except Exception as error:
        raise VersionNotLogged(
            f"The program “{title}” cannot be saved: it holds something that cannot be copied "
            f"({type(error).__name__}), such as an open file, a lock or a connection. Make that in forward()."
        ) from error
    for _, part in copy.named_sub_modules():
        part.history, part.callbacks = [], []
    for predictor in copy.predictors():
        predictor.traces, predictor.train = [], []
    if writer.secret:
        raise VersionNotLogged(secret_sentence(writer.secret))
    return copy, writer.lms, writer.removed


class _Writer(cloudpickle.Pickler):
    """Keeps language models aside, cleaned, with what was taken out of them; notes a secret elsewhere."""

    def __init__(self) -> None:
        self.file = io.BytesIO()
        self.lms: list[dspy.LM] = []
        self.removed: dict[str, str] = {}
        self.secret: str | None = None
        self._met: dict[int, tuple[int, Any]] = {}  # by id, with the model, so that no other gets that id
        super().__init__(self.file)

    def persistent_id(self, value: Any) -> int | None:
        if not isinstance(value, dspy.BaseLM):
            self.secret = self.secret or secret_held(value)
            return None
        if id(value) not in self._met:
            self._met[id(value)] = len(self.lms), value
            clean, removed = cleaned_lm(value)
            self.lms.append(clean)
            self.removed |= removed
        return self._met[id(value)][0]


class _Reader(pickle.Unpickler):
    """Notes the modules that a pickle takes classes and functions from."""

    def __init__(self, data: bytes, lms: Sequence[dspy.LM] = ()) -> None:
        super().__init__(io.BytesIO(data))
        self.modules: set[str] = set()
        self._lms = lms

    def find_class(self, module: str, name: str) -> Any:
        self.modules.add(module)
        return super().find_class(module, name)

    def persistent_load(self, number: Any) -> dspy.LM:
        return self._lms[number]


class _HereReader(pickle.Unpickler):
    """Takes this app's own classes in place of the version's copies of them, which are the same."""

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(re.sub(r"^dspy_demo_[0-9a-f]{8}\b", "dspy_demo", module), name)


def read_spec(folder: Path, noted: Mapping[str, Any]) -> ProgramSpec:
    """The program in a version's files, in this process, which has the code that it was logged with."""
    # Without the context variables of a turn, such as DSPy's settings.
    return noted_spec(noted, contextvars.Context().run(read_program, folder, _HereReader).program)


def noted_spec(noted: Mapping[str, Any], module: dspy.Module) -> ProgramSpec:
    """The spec of a version: its inputs as the module has them, the rest as its metadata says."""
    program = noted["program"]
    known: dict[str, Any] = {name: program[name] for name in SPEC_FIELDS}
    known |= {name: tuple(program[name]) for name in ("outputs", "examples")}
    return replace(spec_of(module, name=program["name"]), adapter=noted["adapter"], **known)


def noted_choice(noted: Mapping[str, Any]) -> LMChoice:
    """The model that a version was logged with, without a key."""
    return LMChoice(**{name: noted["lm"][name] for name in LM_FIELDS if noted["lm"].get(name) is not None})
