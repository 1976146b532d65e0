"""A program on its way into a version, and out of it again."""

from __future__ import annotations

import contextvars
import io
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import dspy

import dspy_demo
from dspy_demo.adapters import adapter_for
from dspy_demo.errors import VersionNotLogged, VersionNotServable
from dspy_demo.events import LMChoice
from dspy_demo.lm.choices import DEMO_MODEL
from dspy_demo.lm.local.files import PREFIX, find, record
from dspy_demo.lm.local.runtime import MODULE as RUNTIME
from dspy_demo.mlflow_bridge import read_program
from dspy_demo.programs.chat_program import ChatProgram
from dspy_demo.programs.own import spec_of
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.settings import Settings
from dspy_demo.versions.secrets import cleaned_lm, public_url, secret_held
from dspy_demo.versions.sources import Sources, in_this_app
from dspy_demo.versions.version import FORMAT


class Draft:
    """What `new_process` makes a version of: copied and cleaned, so that turns go on meanwhile.

    Attributes:
        sources: The source that it needs.
        choice: The model that it answers with; a model on this machine by its whole path.
        models: The model strings that it calls.
        removed: What was taken out of the language models that it holds, each with a name to show.

    Raises:
        VersionNotLogged: It cannot be copied, holds a secret, or its source has changed since it was loaded.
    """

    def __init__(
        self, spec: ProgramSpec, module: dspy.Module, choice: LMChoice, *, adapter: str, settings: Settings
    ) -> None:
        self.spec = spec
        self.adapter = adapter
        self._file: dict[str, Any] | None = None
        lm = self._portable_lm(choice, settings)
        copied = _Copy(
            ChatProgram(
                module,
                chat_field=spec.chat_field,
                history_field=spec.history_field,
                answer_field=spec.answer_field or next(iter(spec.outputs), None),
            ),
            spec.title,
        )
        self.removed = copied.removed
        self.models = {self.choice.model, *(held.model for held in copied.lms)}
        program = {
            "program": copied.program,
            "lm": lm,
            "adapter": adapter_for(adapter),
        }
        self._pickle = cloudpickle.dumps(program)
        reader = _Reader(self._pickle)
        reader.load()
        self.sources = Sources(reader.modules)
        if changed := self.sources.changed:
            raise VersionNotLogged(
                f"{', '.join(changed)} changed after this app loaded it, so a version would not answer as "
                "the program does here. Start the app again, then log it."
            )

    def _portable_lm(self, choice: LMChoice, settings: Settings) -> dspy.LM:
        """The model of a version: without a key, which it finds in the server's environment."""
        self.choice = choice
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
        client = {"api_base": base} if (base := public_url(choice.api_base)) else {}
        return dspy.LM(choice.model, cache=choice.cache, num_retries=settings.lm_retries, **client, **given)

    @property
    def metadata(self) -> dict[str, Any]:
        """How a turn of this version runs; `FORMAT` is the number of this form."""
        spec, choice = self.spec, self.choice
        return {
            "format": FORMAT,
            "app_version": dspy_demo.__version__,
            "program": {
                "name": spec.name,
                "title": spec.title,
                "description": spec.description,
                "chat_field": spec.chat_field,
                "history_field": spec.history_field,
                "answer_field": spec.answer_field,
                "outputs": list(spec.outputs),
                "examples": list(spec.examples),
            },
            "adapter": self.adapter,
            "lm": {
                "model": choice.model,
                "api_base": public_url(choice.api_base),
                "temperature": choice.temperature,
                "max_tokens": choice.max_tokens,
                "cache": choice.cache,
                **({"file": self._file} if self._file else {}),
            },
        }

    def write(self, folder: Path, more: Mapping[str, Any]) -> None:
        """Write all of it, and `more`, where `new_process` reads it."""
        (folder / "code").mkdir()
        self.sources.copy_to(folder / "code")
        (folder / "program.pkl").write_bytes(self._pickle)
        draft = {
            "metadata": self.metadata,
            "requirements": self.sources.pinned({RUNTIME} if self._file else set()),
            "folders": [str(path) for path in self.sources.folders],
            "app_name": self.sources.app_name,
            "sources": self.sources.digests,
            **more,
        }
        (folder / "draft.json").write_text(json.dumps(draft))


class _Copy:
    """A copy of a program with its demos and instructions, without keys, traces and callbacks.

    It goes through a pickle, as the version will: so every language model that it holds is met, wherever it
    is, and what cannot be saved is noticed before anything is begun.

    Attributes:
        lms: The cleaned language models that it holds.
        removed: What was taken out of them.

    Raises:
        VersionNotLogged: It holds something that cannot be saved, such as an open connection, or a secret.
    """

    def __init__(self, program: ChatProgram, title: str) -> None:
        self.removed: dict[str, str] = {}
        self.lms: list[dspy.LM] = []
        try:
            writer = _Writer()
            writer.dump(program)
            for lm in writer.lms:
                clean, removed = cleaned_lm(lm)
                self.lms.append(clean)
                self.removed |= removed
            self.program: ChatProgram = _Reader(writer.file.getvalue(), self.lms).load()
        except Exception as error:
            raise VersionNotLogged(
                f"The program “{title}” cannot be saved: it holds something that cannot be "
                f"copied ({type(error).__name__}), such as an open file, a lock or a connection. "
                "Make that in forward()."
            ) from error
        for _, part in self.program.named_sub_modules():
            part.history, part.callbacks = [], []
        for predictor in self.program.predictors():
            predictor.traces, predictor.train = [], []
        if writer.secret:
            raise VersionNotLogged(secret_sentence(writer.secret))


class _Writer(cloudpickle.Pickler):
    """Leaves language models out, and keeps them aside; notes a secret among the values."""

    def __init__(self) -> None:
        self.file = io.BytesIO()
        self.lms: list[dspy.LM] = []
        self.secret: str | None = None
        super().__init__(self.file)

    def persistent_id(self, value: Any) -> int | None:
        if isinstance(value, dspy.BaseLM):
            if not any(value is lm for lm in self.lms):
                self.lms.append(value)
            return next(number for number, lm in enumerate(self.lms) if lm is value)
        self.secret = self.secret or secret_held(value)
        return None


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
        return super().find_class(in_this_app(module), name)


def secret_sentence(found: str) -> str:
    """What to tell the user of a secret, named by a phrase."""
    return (
        f"The version would have held {found}, so it was not logged. "
        "Read it from the environment in forward() instead."
    )


def in_clean_context(action: Any, *arguments: Any, **named: Any) -> Any:
    """Run `action` without the context variables of a turn (DSPy's settings, the active trace)."""
    return contextvars.Context().run(action, *arguments, **named)


def read_module(folder: Path) -> dspy.Module:
    """The program in a version's files, in this process, which has the code that it was logged with.

    Raises:
        VersionNotServable: It holds another program than this app logs.
        Exception: Whatever its own code raises.
    """
    program = in_clean_context(read_program, folder, _HereReader)
    if not isinstance(program, ChatProgram):
        raise VersionNotServable("It holds another program than this app logs.")
    return program.program


def noted_spec(noted: Mapping[str, Any], module: dspy.Module) -> ProgramSpec:
    """The spec of a version's program: its inputs as the module has them, the rest as its metadata says."""
    program = noted["program"]
    spec = spec_of(module, name=program["name"], title=program["title"], description=program["description"])
    return replace(
        spec,
        chat_field=program["chat_field"],
        history_field=program["history_field"],
        answer_field=program["answer_field"],
        outputs=tuple(program["outputs"]),
        examples=tuple(program["examples"]),
        adapter=noted["adapter"],
    )


def noted_choice(noted: Mapping[str, Any]) -> LMChoice:
    """The model that a version was logged with, without a key."""
    known = ("model", "api_base", "temperature", "max_tokens", "cache")
    return LMChoice(**{name: noted["lm"][name] for name in known if noted["lm"].get(name) is not None})
