"""A version out of MLflow, as the model server needs it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dspy_demo.adapters import adapter_name
from dspy_demo.errors import (
    DemoError,
    TrackingUnavailable,
    VersionNotFound,
    VersionNotServable,
)
from dspy_demo.events import LMChoice
from dspy_demo.lm.choices import DEMO_MODEL
from dspy_demo.lm.providers import provider_for
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.settings import Settings
from dspy_demo.versions.logged_with import logged_choice
from dspy_demo.versions.tracking import Tracking

if TYPE_CHECKING:
    import dspy
    from mlflow.pyfunc import PyFuncModel


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """A version in this process.

    Attributes:
        uri: Its fixed name, ``models:/NAME/3``, also where it was asked for by an alias.
        module: The program itself, without the messages around it.
        lm: The model it was logged with.
        own_lm: That model itself, where it is one of its own making, which a `LMChoice` cannot name.
        adapter: ``chat``, ``json`` or ``xml``.
        model_file: The file of a model that runs in the server itself (`lm.local.files.record`).
    """

    uri: str
    spec: ProgramSpec
    module: dspy.Module
    lm: LMChoice
    own_lm: dspy.LM | None
    adapter: str
    model_file: Mapping[str, Any] | None = None


def load(uri: str, settings: Settings) -> ServedVersion:
    """Load a version. The code in it runs.

    Raises:
        VersionNotFound: There is none of that name, number or alias.
        VersionNotServable: It is not a DSPy program, or not one that can chat.
        TrackingUnavailable: The tracking server or its database cannot be used.
    """
    import mlflow

    tracking_uri = Tracking(settings).uri
    if tracking_uri.startswith("sqlite:///") and not Path(tracking_uri.removeprefix("sqlite:///")).exists():
        raise VersionNotFound(f"There is no version {uri}: no MLflow database is at {tracking_uri}.")
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_registry_uri(tracking_uri)
    fixed_uri, loaded = _loaded(uri)
    wrapper = loaded._model_impl  # mlflow/dspy/load.py, `_load_pyfunc` (3.17): the wrapper that was pickled
    if type(wrapper).__module__ != "mlflow.dspy.wrapper":
        raise VersionNotServable(f"{uri} is not a DSPy program, so it cannot be served here.")
    logged = (loaded.metadata.metadata or {}).get("dspy_demo") or {}  # `versions.artifact.METADATA_KEY`
    lm = wrapper.dspy_settings.get("lm")
    choice = logged_choice(logged.get("lm"), lm)
    if choice is None:
        raise VersionNotServable(f"{uri} was logged without a language model, so it cannot answer.")
    module, spec = _program(uri, wrapper.model)
    adapter = logged.get("adapter") or adapter_name(wrapper.dspy_settings.get("adapter")) or "chat"
    file = (logged.get("lm") or {}).get("file")
    ours = choice.model == DEMO_MODEL or file is not None
    own = lm if not ours and not isinstance(getattr(lm, "engine", ""), str) else None
    return ServedVersion(fixed_uri, spec, module, choice, own, adapter, file)


def _loaded(uri: str) -> tuple[str, PyFuncModel]:
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException

    missing = VersionNotFound(f"There is no version {uri}. Check its name, number or alias in MLflow.")
    try:
        fixed_uri = _without_alias(uri)
        # Its check of the requirements alone takes a second (mlflow 3.17, `packages_distributions`).
        return fixed_uri, mlflow.pyfunc.load_model(fixed_uri, suppress_warnings=True)
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"}:
            if "flavor" in str(error):
                raise VersionNotServable(f"{uri} is not a model that MLflow can serve.") from error
            raise missing from error
        raise TrackingUnavailable() from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VersionNotFound(f"The files of {uri} are gone. Log it again.") from error
    except ImportError as error:
        raise VersionNotServable(
            f"{uri} needs the Python module {error.name!r}, which is not installed here."
        ) from error
    except OSError as error:
        raise TrackingUnavailable() from error
    except Exception as error:
        if "sqlalchemy" in type(error).__module__:
            raise TrackingUnavailable() from error
        raise VersionNotServable(
            f"{uri} could not be loaded ({type(error).__name__}). "
            "Was it logged with other versions of its packages?"
        ) from error


def _without_alias(uri: str) -> str:
    """The version behind an alias now, so that a later change of it does not blur what is served."""
    named = re.fullmatch(r"models:/([^/@]+)@([^/@]+)", uri)
    if named is None:
        return uri
    from mlflow import MlflowClient

    found = MlflowClient().get_model_version_by_alias(named[1], named[2])
    return f"models:/{named[1]}/{found.version}"


def _program(uri: str, model: dspy.Module) -> tuple[dspy.Module, ProgramSpec]:
    from dspy_demo.programs.chat_program import ChatProgram
    from dspy_demo.programs.inspecting import spec_of

    # By name too: `code_paths` may have brought the class a second time.
    if isinstance(model, ChatProgram) or type(model).__name__ == "ChatProgram":
        return model.program, cast(ProgramSpec, model.spec)
    name = re.sub(r"\W+", "_", type(model).__name__).lower()
    try:
        spec = spec_of(model, name=name, title=type(model).__name__, description=f"Logged elsewhere as {uri}")
    except DemoError as error:
        raise VersionNotServable(f"{uri} has no text input, so there is nothing to chat with.") from error
    if "messages" in {field.name for field in spec.inputs}:
        from dspy_demo.serving.messages_program import MessagesProgram

        return MessagesProgram(model), MessagesProgram.spec_for(model, name)
    return model, spec


def missing_key(choice: LMChoice, settings: Settings) -> str:
    """Why this version cannot answer yet, as a sentence; empty where a key is there or none is needed."""
    provider = provider_for(choice.model)
    if not provider.example or choice.api_base or provider.base(settings) or choice.api_key:
        return ""
    return (
        f"{choice.model} needs a key: set {' or '.join(provider.keys)} where the model server is started. "
        f"An app that serves it passes that on with --serve-env {provider.keys[0]}."
    )
