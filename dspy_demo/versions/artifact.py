"""The files of a version: the program as a chat model, its settings, its code; no keys, nobody's words."""

from __future__ import annotations

import contextvars
import inspect
import io
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import cloudpickle  # type: ignore[import-untyped]
import dspy
from dspy.dsp.utils.settings import DEFAULT_CONFIG

import dspy_demo
from dspy_demo.errors import VersionNotLogged
from dspy_demo.events import LMChoice
from dspy_demo.lm.detection import BUILTIN_MODEL
from dspy_demo.lm.gguf.identity import identified, record
from dspy_demo.lm.local_models import PREFIX, LocalModel, find
from dspy_demo.lm.local_models.runtime import MODULE as RUNTIME
from dspy_demo.programs.adapters import adapter_for
from dspy_demo.programs.chat_program import ChatProgram
from dspy_demo.programs.spec import AdapterName, ProgramSpec
from dspy_demo.settings import Settings
from dspy_demo.versions.confidential import cleaned_lm, find_secret, public_url
from dspy_demo.versions.source_code import APP, OwnCode, app_source, requirements

if TYPE_CHECKING:
    from mlflow.models import Model

TASK = "llm/v1/chat"
#: Under this key the MLmodel's metadata holds what `loading` needs to build the same turn again.
METADATA_KEY = "dspy_demo"
PICKLE = Path("data", "model.pkl")


class Draft:
    """A program on its way into a version: copied and cleaned, so that turns go on with the original.

    Attributes:
        program: What is pickled: takes messages or named fields.
        own: The user's own source that it needs; nothing for a shipped program.
        model_file: The file of a model on this machine, with its checksum; its weights stay where they are.
    """

    def __init__(
        self, spec: ProgramSpec, module: dspy.Module, choice: LMChoice, adapter: str, settings: Settings
    ) -> None:
        self.spec = replace(spec, build=_maker(spec, module))
        self.program, modules = clean_copy(ChatProgram(module, self.spec))
        self.adapter = adapter
        self.model_file = model_file(choice, settings)
        self.choice = replace(choice, model=self.model_file.model) if self.model_file else choice
        self.lm = portable_lm(self.choice, settings, self.model_file)
        self.own = OwnCode(modules)
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

    def save(self, folder: Path, model: Model) -> None:
        """Write the files with MLflow's DSPy flavor. No language model is called.

        `mlflow.dspy.log_model` would answer the input example once and switch tracing off for the whole
        process meanwhile (``trace_disabled``, mlflow 3.17); so this is the function beneath both.
        """
        import mlflow.dspy

        save_model = inspect.unwrap(mlflow.dspy.save_model)
        with self.own.copied() as own, _default_settings(self):
            save_model(
                self.program,
                str(folder),
                task=TASK,
                mlflow_model=model,
                signature=chat_signature(),
                input_example={"messages": [{"role": "user", "content": self._example()}]},
                pip_requirements=self.requirements,
                code_paths=[str(app_source()), *own],
                metadata={METADATA_KEY: self.metadata},
            )

    def _example(self) -> str:
        return next(iter(self.spec.examples), "What is 2 + 2?")

    def check(self, folder: Path, secrets: dict[str, str]) -> None:
        """Read the files back, without a call to a model.

        Raises:
            VersionNotLogged: They hold a secret, or are not the chat program that was to be saved.
        """
        if found := find_secret(folder, secrets, skipped=folder / "code" / APP):
            raise VersionNotLogged(
                f"The version would have held {found}, so it was not logged. "
                "Read keys from the environment instead."
            )
        wrapper = read_pickle(folder / PICKLE)
        program = wrapper.model
        takes_messages = "messages" in inspect.signature(type(program).forward).parameters
        same = isinstance(program, ChatProgram) and _shape(program) == _shape(self.program)
        if not (takes_messages and same and program.spec.chat_field in {f.name for f in program.spec.inputs}):
            raise VersionNotLogged("The saved program did not come back as it was, so it was not logged.")
        if getattr(wrapper.dspy_settings["lm"], "model", None) != self.choice.model:
            raise VersionNotLogged("The saved language model did not come back, so nothing was logged.")


def clean_copy(program: ChatProgram) -> tuple[ChatProgram, set[str]]:
    """A copy with its demos and instructions, without keys, traces and callbacks; and its code's modules.

    It goes through a pickle, as the version will: so every language model that it holds is met, wherever it
    is, and what cannot be saved is noticed before anything is begun.

    Raises:
        VersionNotLogged: It holds something that cannot be saved, such as an open connection.
    """
    try:
        writer = _Writer()
        writer.dump(program)
        reader = _Reader(writer.file.getvalue(), [cleaned_lm(lm) for lm in writer.lms])
        clean: ChatProgram = reader.load()
    except Exception as error:
        raise VersionNotLogged(
            f"The program “{program.spec.title}” cannot be saved: it holds something that cannot be copied "
            f"({type(error).__name__}), such as an open file, a lock or a connection. Make that in forward()."
        ) from error
    for _, part in clean.named_sub_modules():
        part.history, part.callbacks = [], []
    for predictor in clean.predictors():
        predictor.traces, predictor.train = [], []
    return clean, reader.modules


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
    if choice.model == BUILTIN_MODEL:
        from dspy_demo.lm.offline import offline_lm

        return offline_lm(tokens_per_second=settings.offline_tokens_per_s, **given)
    if file is not None:
        from dspy_demo.lm.gguf.engine import local_lm

        return local_lm(file, context_tokens=settings.local_context_tokens, cache=choice.cache, **given)
    client = {"api_base": base} if (base := public_url(choice.api_base)) else {}
    return dspy.LM(choice.model, cache=choice.cache, num_retries=settings.lm_retries, **client, **given)


def adapter_of(name: str) -> dspy.Adapter:
    return adapter_for(cast(AdapterName, name))


def chat_signature() -> Any:
    """OpenAI's messages in, MLflow's choices out; explicit, so that nothing is run to infer it.

    MLflow's own for ``llm/v1/chat`` (3.17) refuses what OpenAI's clients may send: the parts of a content, a
    name. `ChatProgram` checks the content itself.
    """
    from mlflow.models import ModelSignature
    from mlflow.models.rag_signatures import CHAT_COMPLETION_RESPONSE_SCHEMA
    from mlflow.types.schema import AnyType, Array, ColSpec, DataType, Object, Property, Schema

    message = Object(
        [
            Property("role", DataType.string),
            Property("content", AnyType(), required=False),
            Property("name", DataType.string, required=False),
        ]
    )
    return ModelSignature(Schema([ColSpec(Array(message), name="messages")]), CHAT_COMPLETION_RESPONSE_SCHEMA)


def read_pickle(path: Path) -> Any:
    """MLflow's wrapper around a program: ``model``, ``dspy_settings``. Runs what the pickle says."""
    return _Reader(path.read_bytes()).load()


class _Writer(cloudpickle.Pickler):
    """Leaves language models out, and keeps them aside."""

    def __init__(self) -> None:
        self.file = io.BytesIO()
        self.lms: list[dspy.LM] = []
        super().__init__(self.file)

    def persistent_id(self, value: Any) -> int | None:
        if not isinstance(value, dspy.BaseLM):
            return None
        if not any(value is lm for lm in self.lms):
            self.lms.append(value)
        return next(number for number, lm in enumerate(self.lms) if lm is value)


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


@contextmanager
def _default_settings(draft: Draft) -> Iterator[None]:
    """DSPy's settings as the version will have them: MLflow pickles all of ``dspy.settings`` (3.17).

    Whatever else is set now, by a running turn or by the user's own ``dspy.configure``, stays out.
    """
    unknown = dict.fromkeys(set(dspy.settings.config) - set(DEFAULT_CONFIG))
    wanted = {"lm": draft.lm, "adapter": adapter_of(draft.adapter), "disable_history": True}
    with dspy.context(**unknown, **{**DEFAULT_CONFIG, **wanted}):
        yield


def in_clean_context(action: Any, *arguments: Any) -> Any:
    """Run `action` without the context variables of a turn (DSPy's settings, the active trace)."""
    return contextvars.Context().run(action, *arguments)


def _maker(spec: ProgramSpec, module: dspy.Module) -> Any:
    """Something in place of ``build`` that pickles by name: a user's program is built by a closure."""
    build = spec.build
    return build if getattr(build, "__qualname__", "<").find("<") < 0 else type(module)


def _shape(program: ChatProgram) -> list[tuple[str, list[str], list[str]]]:
    return [
        (name, list(predictor.signature.input_fields), list(predictor.signature.output_fields))
        for name, predictor in program.program.named_predictors()
    ]
