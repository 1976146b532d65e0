"""A version out of MLflow, as the model server needs it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import dspy

from dspy_demo.adapters import adapter_name
from dspy_demo.errors import DemoError, VersionNotFound, VersionNotServable
from dspy_demo.events import LMChoice
from dspy_demo.programs.chat_program import as_prediction
from dspy_demo.programs.own import spec_of
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.settings import Settings
from dspy_demo.versions.artifact import noted_choice, noted_spec
from dspy_demo.versions.secrets import public_url
from dspy_demo.versions.store import VersionStore


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """A version in this process."""

    uri: str  #: Its fixed name, ``models:/NAME/3``, also where it was asked for by an alias.
    spec: ProgramSpec
    module: dspy.Module  #: The program itself, without the messages around it.
    lm: LMChoice
    own_lm: dspy.LM | None  #: A model of the version's own making, which a `LMChoice` cannot name.
    adapter: str
    model_file: Mapping[str, Any] | None = None  #: See `lm.local.files.record`.


def load(uri: str, settings: Settings) -> ServedVersion:
    """Load a version. The code in it runs, and it sets ``dspy.settings``: call it in the main thread, once.

    Raises:
        VersionNotFound, VersionNotServable, TrackingUnavailable: With a sentence for the user.
    """
    store = VersionStore(settings)
    if (database := store.tracking.database) and not database.exists():
        raise VersionNotFound(f"MLflow has no version {uri}: there is no database at {database}.")
    version = store.get(uri)
    if not version.servable:
        raise VersionNotServable(f"{uri} cannot be served here. {version.reason}")
    import mlflow.dspy

    mlflow.set_tracking_uri(store.tracking.uri)
    mlflow.set_registry_uri(store.tracking.uri)
    try:
        loaded = mlflow.dspy.load_model(version.uri)
    except Exception as error:
        missing = f", Python module {error.name!r}" if isinstance(error, ImportError) else ""
        raise VersionNotServable(
            f"{uri} could not be loaded ({type(error).__name__}{missing}). "
            "Was it logged with other versions of its packages?"
        ) from error
    lm, adapter = dspy.settings.lm, dspy.settings.adapter
    dspy.configure(lm=None, adapter=None, callbacks=[], disable_history=False)  # each turn brings its own
    own_lm = lm if lm is not None and not isinstance(getattr(lm, "engine", ""), str) else None
    if not (noted := version.notes):
        return replace(_of_another_tool(version.uri, loaded, lm=lm, adapter=adapter), own_lm=own_lm)
    module, file = loaded.program, noted["lm"].get("file")
    spec, choice = noted_spec(noted, module), noted_choice(noted)
    return ServedVersion(version.uri, spec, module, choice, None if file else own_lm, noted["adapter"], file)


def _of_another_tool(uri: str, module: dspy.Module, *, lm: Any, adapter: Any) -> ServedVersion:
    """A version that plain `mlflow.dspy` logged: model and adapter are in the settings that came with it."""
    if not getattr(lm, "model", None):
        raise VersionNotServable(f"{uri} was logged without a language model, so it cannot answer.")
    title = type(module).__name__
    forward = getattr(module, "aforward", None) or getattr(module, "forward", module)
    takes_messages = "messages" in inspect.signature(forward).parameters
    module = MessagesProgram(module) if takes_messages else module
    try:
        spec = spec_of(module, name=re.sub(r"\W+", "_", title).lower(), title=title)
    except DemoError as error:
        raise VersionNotServable(f"{uri} has no text input, so there is nothing to chat with.") from error
    spec = replace(spec, answer_field="answer") if takes_messages else spec
    base = public_url(lm.kwargs.get("api_base") or lm.kwargs.get("base_url"))
    given = {key: lm.kwargs.get(key) for key in ("temperature", "max_tokens")}
    choice = LMChoice(str(lm.model), base, cache=bool(lm.cache), **given)
    return ServedVersion(uri, spec, module, choice, None, adapter_name(adapter) or "chat")


class MessagesProgram(dspy.Module):
    """Asks a module of the form ``forward(messages)`` a question, with the chat before it."""

    def __init__(self, program: dspy.Module) -> None:
        super().__init__()
        self.program = program

    async def aforward(self, question: str, history: dspy.History | None = None) -> dspy.Prediction:
        messages = []
        for pair in history.messages if history else []:
            messages.append({"role": "user", "content": pair["question"]})
            messages.append({"role": "assistant", "content": pair["answer"]})
        messages.append({"role": "user", "content": question})
        call = self.program.acall if hasattr(self.program, "aforward") else dspy.asyncify(self.program)
        result = await call(messages)
        if isinstance(result, Mapping):
            result = {name: value for name, value in result.items() if name != "role"}
        return as_prediction(result, "answer")
