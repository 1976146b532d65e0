"""A program on its way into a version: copied and cleaned, so that turns go on with the original."""

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
from dspy_demo.errors import VersionNotLogged
from dspy_demo.events import LMChoice
from dspy_demo.lm.choices import DEMO_MODEL
from dspy_demo.lm.local.files import PREFIX, LocalModel, find, identified, record
from dspy_demo.lm.local.runtime import MODULE as RUNTIME
from dspy_demo.programs.chat_program import ChatProgram
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.settings import Settings
from dspy_demo.versions.confidential import cleaned_lm, public_url, secret_held
from dspy_demo.versions.source_code import OwnCode, requirements


class Draft:
    """What `dspy_demo.versions.saving` makes a version of.

    Attributes:
        program: What is pickled: takes messages or named fields.
        own: The user's own source that it needs; nothing for a shipped program.
        model_file: The file of a model on this machine, with its checksum; its weights stay where they are.
        removed: What was taken out of the language models that it holds, each with a name to show.

    Raises:
        VersionNotLogged: It cannot be copied, holds a secret, or its source has changed since it was loaded.
    """

    def __init__(
        self, spec: ProgramSpec, module: dspy.Module, choice: LMChoice, adapter: str, settings: Settings
    ) -> None:
        self.spec = replace(spec, build=_maker(spec, module))
        copied = _Copy(ChatProgram(module, self.spec))
        self.program, self.removed = copied.program, copied.removed
        self.adapter = adapter
        self.model_file = model_file(choice, settings)
        self.choice = replace(choice, model=self.model_file.model) if self.model_file else choice
        self.lm = portable_lm(self.choice, settings, self.model_file)
        self.models = {self.choice.model, *(lm.model for lm in copied.lms)}
        self.own = OwnCode(copied.modules)
        if changed := self.own.changed:
            raise VersionNotLogged(
                f"{', '.join(changed)} changed after this app loaded it, so a version would not answer as "
                "the program does here. Start the app again, then log it."
            )
        runtime = {RUNTIME} if self.model_file else set()
        self.requirements = requirements(self.own.requirements | runtime)

    @property
    def metadata(self) -> dict[str, Any]:
        """How a turn of this version runs, for loading it back."""
        choice = self.choice
        return {
            "app_version": dspy_demo.__version__,
            "program": self.spec.name,
            "adapter": self.adapter,
            "lm": {
                "model": choice.model,
                "api_base": public_url(choice.api_base),
                "temperature": choice.temperature,
                "max_tokens": choice.max_tokens,
                "cache": choice.cache,
                **({"file": record(self.model_file)} if self.model_file else {}),
            },
        }

    def write(self, folder: Path, more: Mapping[str, Any]) -> None:
        """Write all of it, and `more`, where `saving` reads it."""
        (folder / "code").mkdir()
        self.own.copy_to(folder / "code")
        program = {"program": self.program, "lm": self.lm, "adapter": adapter_for(self.adapter)}
        (folder / "program.pkl").write_bytes(cloudpickle.dumps(program))
        draft = {
            "metadata": self.metadata,
            "requirements": self.requirements,
            "folders": [str(path) for path in self.own.folders],
            "sources": self.own.digests,
            **more,
        }
        (folder / "draft.json").write_text(json.dumps(draft))


class _Copy:
    """A copy of a program with its demos and instructions, without keys, traces and callbacks.

    It goes through a pickle, as the version will: so every language model that it holds is met, wherever it
    is, and what cannot be saved is noticed before anything is begun.

    Attributes:
        modules: Where its classes and functions come from.
        lms: The cleaned language models that it holds.
        removed: What was taken out of them.

    Raises:
        VersionNotLogged: It holds something that cannot be saved, such as an open connection, or a secret.
    """

    def __init__(self, program: ChatProgram) -> None:
        self.removed: dict[str, str] = {}
        self.lms: list[dspy.LM] = []
        try:
            writer = _Writer()
            writer.dump(program)
            for lm in writer.lms:
                clean, removed = cleaned_lm(lm)
                self.lms.append(clean)
                self.removed |= removed
            reader = _Reader(writer.file.getvalue(), self.lms)
            self.program: ChatProgram = reader.load()
        except Exception as error:
            raise VersionNotLogged(
                f"The program “{program.spec.title}” cannot be saved: it holds something that cannot be "
                f"copied ({type(error).__name__}), such as an open file, a lock or a connection. "
                "Make that in forward()."
            ) from error
        self.modules = reader.modules
        for _, part in self.program.named_sub_modules():
            part.history, part.callbacks = [], []
        for predictor in self.program.predictors():
            predictor.traces, predictor.train = [], []
        if found := writer.secret:
            raise VersionNotLogged(secret_sentence(found))


def secret_sentence(found: str) -> str:
    """What to tell the user of a secret, named by a phrase."""
    return (
        f"The version would have held {found}, so it was not logged. "
        "Read it from the environment in forward() instead."
    )


def model_file(choice: LMChoice, settings: Settings) -> LocalModel | None:
    """The file of a ``local/`` model, with its checksum; None for any other model.

    Raises:
        ModelSetupError: It is gone.
    """
    return identified(find(choice.model, settings)) if choice.model.startswith(PREFIX) else None


def portable_lm(choice: LMChoice, settings: Settings, file: LocalModel | None = None) -> dspy.LM:
    """The model of a version: a plain `dspy.LM` without a key, which it finds in the server's environment."""
    given: dict[str, Any] = {"temperature": choice.temperature, "max_tokens": choice.max_tokens}
    given = {name: value for name, value in given.items() if value is not None}
    if choice.model == DEMO_MODEL:
        from dspy_demo.lm.demo_engine import demo_lm

        return demo_lm(**given)
    if file is not None:
        from dspy_demo.lm.local.engine import local_lm

        return local_lm(file, context_tokens=settings.local_context_tokens, cache=choice.cache, **given)
    client = {"api_base": base} if (base := public_url(choice.api_base)) else {}
    return dspy.LM(choice.model, cache=choice.cache, num_retries=settings.lm_retries, **client, **given)


def in_clean_context(action: Any, *arguments: Any) -> Any:
    """Run `action` without the context variables of a turn (DSPy's settings, the active trace)."""
    return contextvars.Context().run(action, *arguments)


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


def _maker(spec: ProgramSpec, module: dspy.Module) -> Any:
    """Something in place of ``build`` that pickles by name: a user's program is built by a closure."""
    return spec.build if "<" not in getattr(spec.build, "__qualname__", "<") else type(module)
