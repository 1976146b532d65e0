"""`VersionStore`: everything that the page, the routes and the command line do with versions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import Context
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import dspy_demo
from dspy_demo import warden
from dspy_demo.errors import DemoError, InvalidInput, VersionNotFound, VersionNotLogged, VersionNotServable
from dspy_demo.events import LMChoice
from dspy_demo.mlflow_bridge import tracking_errors
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.settings import Settings
from dspy_demo.versions import new_process
from dspy_demo.versions.secrets import known_secrets, search_files, secret_in, version_environment
from dspy_demo.versions.sources import runs_here
from dspy_demo.versions.tracking import Tracking
from dspy_demo.versions.version import (
    CHAMPION,
    METADATA_KEY,
    OWN_TAGS,
    LogRequest,
    Version,
    checked,
    checked_words,
    other_format,
    parse_reference,
)

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

    from dspy_demo.programs.spec import ProgramSpec
    from dspy_demo.versions.artifact import Draft

PREVIOUS_TAG = "dspy_demo.previous_champion"  # of the registered model, so that it survives a restart
LISTED_MAX = 500
TRIAL_TIMEOUT_S = 120.0


class Trials:
    """Makes the files of one version at a time, in two new processes that load it, half a GB each."""

    def __init__(self) -> None:
        self._one = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._closed = False

    def close(self) -> None:
        """End what runs; nothing is started any more."""
        self._closed = True
        if (running := self._running) and running.stdin:
            running.stdin.close()

    def load_it_anew(self, folder: Path, environment: Mapping[str, str]) -> None:
        """Make ``folder/model`` and ``folder/result.json`` of a draft."""
        save = [sys.executable, "-P", "-W", "ignore", new_process.__file__, "save", str(folder)]
        with (
            self._one,
            subprocess.Popen(  # noqa: S603 - the command is the app's own
                [*warden.prefix(grace_s=1), *save],
                env=environment,
                stdin=subprocess.PIPE,  # closing it ends them
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            ) as process,
        ):
            self._running = process
            if self._closed:
                self.close()
            try:
                failed = process.wait(TRIAL_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                failed = True
        if failed:
            raise VersionNotLogged("A new process did not load the program, or not within two minutes.")


class VersionStore:
    """The versions of `settings`' tracking store; `environ` is for the processes that try a version.
    Every method blocks: call it in a thread, many at once. Each may raise TrackingUnavailable.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str] = os.environ) -> None:
        self._settings, self._environ = settings, environ
        self.tracking = Tracking(settings)
        self._trials = Trials()
        self._moving = threading.Lock()
        #: Why a version cannot chat and what is noted of it, by its place: its files do not change.
        self._contents: dict[str, tuple[str, Mapping[str, Any]]] = {}

    def close(self) -> None:
        """End the processes that try a version; such a log fails."""
        self._trials.close()

    def log(self, request: LogRequest, programs: ProgramRegistry, adapter: str = "chat") -> Version:
        """Make the program of `request` a registered version, once new processes have loaded it, for seconds.
        Raises InvalidInput for a name, tag or description, VersionNotLogged for the program.
        """
        secrets = known_secrets(self._settings, request.lm, self._environ)
        request = checked(request)
        _refuse_secrets(secrets, request.name, request.description, *request.tags, *request.tags.values())
        spec, module = programs.get(request.program), programs.module(request.program)
        self.tracking.prepare()
        from dspy_demo.versions.artifact import Draft

        adapter = spec.adapter or adapter
        make = partial(Draft, spec, module, request.lm, adapter=adapter, settings=self._settings)
        draft = Context().run(make)  # without that of a turn, such as DSPy's settings
        secrets |= draft.removed
        with tempfile.TemporaryDirectory(prefix="dspy-demo-version-") as place:
            folder = Path(place)
            draft.write(folder)
            own = Path("code", draft.sources.app_name)
            search_files(folder, secrets, skipped=folder / own)
            self._trials.load_it_anew(folder, self._trial_environment(folder, draft))
            result = json.loads((folder / "result.json").read_text())
            if result["refused"]:
                raise VersionNotLogged(result["refused"])
            search_files(folder / "model", secrets, skipped=folder / "model" / own)
            tags = draft.tags(result["files"])
            return self._version(self._stored(request, folder / "model", tags), None)

    def _trial_environment(self, folder: Path, draft: Draft) -> dict[str, str]:
        """What a model server gets, without the login of MLflow."""
        environment = version_environment(self._environ, draft.models, self._settings.serve_env)
        kept = {name: text for name, text in environment.items() if not name.startswith("MLFLOW_TRACKING_")}
        path = [str(Path(dspy_demo.__path__[0]).parent), *filter(None, [kept.get("PYTHONPATH")])]
        ours = {"DSPY_CACHEDIR": str(folder / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
        return kept | ours | {"PYTHONPATH": os.pathsep.join(path), "MLFLOW_DISABLE_TELEMETRY": "true"}

    def _stored(self, request: LogRequest, model: Path, tags: Mapping[str, str]) -> ModelVersion:
        """The registered version of some files; of a failure no file is left."""
        client, write = self.tracking.client, self.tracking.write
        name = request.name.replace(".", "-")  # MLflow refuses that in a logged model's name
        experiment_id = self.tracking.experiment_id
        logged = write(lambda: client.create_logged_model(experiment_id, name, model_type="dspy"))
        try:
            with tracking_errors():
                client.log_model_artifacts(logged.model_id, str(model))
            write(lambda: client.finalize_logged_model(logged.model_id, "READY"))
            return write(lambda: self._registered(request, logged, tags))
        except BaseException:
            if folder := _local(logged.artifact_location):
                shutil.rmtree(folder.parent, ignore_errors=True)  # it may have filled the disk
            with suppress(Exception):  # the failure before is the one to report
                client.delete_logged_model(logged.model_id)
            raise

    def _registered(self, request: LogRequest, logged: Any, tags: Mapping[str, str]) -> ModelVersion:
        """The version of a logged model, and the registered model where its name is new."""
        from mlflow.exceptions import MlflowException

        client = self.tracking.client
        try:
            client.create_registered_model(request.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # A server wants the id, to find that the source is its own. For a database MLflow would look it up at
        # the process's global tracking URI.
        model_id = logged.model_id if self.tracking.remote else None
        told = {"tags": {**tags, **request.tags}, "description": request.description or None}
        return client.create_model_version(request.name, logged.artifact_location, model_id=model_id, **told)

    def versions(self) -> list[Version]:
        """The newest `LISTED_MAX`, newest first. Those of other tools are among them."""
        client = self.tracking.client
        with tracking_errors():
            models = {model.name: model for model in client.search_registered_models(max_results=1000)}
            found = client.search_model_versions(None, LISTED_MAX, order_by=["creation_timestamp DESC"])
        listed = [self._version(item, models.get(item.name)) for item in found]
        return sorted(listed, key=lambda version: (version.created_at, version.version), reverse=True)

    def get(self, reference: str) -> Version:
        """The version of ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``, also without ``models:/``."""
        client = self.tracking.client
        name, number, alias = parse_reference(reference)
        try:
            with tracking_errors():
                found = client.get_model_version_by_alias if alias else client.get_model_version
                item = found(name, alias or number)
                return self._version(item, client.get_registered_model(name))
        except (VersionNotFound, InvalidInput) as error:
            raise VersionNotFound(f"MLflow has no version {reference[:150]}.") from error

    def load(self, reference: str) -> ProgramSpec:
        """The program of a version in this process, or VersionNotServable. Runs code of the version."""
        from dspy_demo.versions.artifact import read_spec

        version = self.get(reference)
        title = f"{version.name} {version.version}"
        if not version.servable:
            raise VersionNotServable(f"{title} cannot be used here. {version.reason}")
        if not version.same_code:
            raise VersionNotServable(f"{title} was logged with other code than runs here. Serve it instead.")
        try:
            with self._files(version.name, version.version) as folder:
                return read_spec(folder, version.notes)
        except DemoError:
            raise
        except Exception as error:
            raise VersionNotServable(
                f"{title} could not be loaded here ({type(error).__name__}). "
                "It may need another version of DSPy or a package that is not installed."
            ) from error

    def promote(self, reference: str) -> Version:
        """Make a version that can answer the champion, and remember which one it was before."""
        version = self.get(reference)
        if not version.servable:
            title = f"{version.name} {version.version}"
            raise VersionNotServable(f"{title} cannot be the champion. {version.reason}")
        with self._moving:
            self._move(version.name, version.version)
        return self.get(version.uri)

    def roll_back(self, name: str) -> Version:
        """Make the previous champion the champion again, if there is one; a second time undoes it."""
        with self._moving:
            previous = self.previous_champion(name)
            if previous is None:
                raise VersionNotFound(f"{name} had no champion before, so there is nothing to roll back to.")
            self._move(name, previous)
        return self.get(f"{name}/{previous}")

    def previous_champion(self, name: str) -> int | None:
        """The version that `roll_back` would bring back."""
        with tracking_errors():
            model = self.tracking.client.get_registered_model(name)
        previous = str(model.tags.get(PREVIOUS_TAG, ""))
        if previous.isdigit() and previous != str(model.aliases.get(CHAMPION)):
            with suppress(VersionNotFound):
                return self.get(f"{name}/{previous}").version
        return None

    def _move(self, name: str, version: int) -> None:
        client = self.tracking.client
        with tracking_errors():
            current = client.get_registered_model(name).aliases.get(CHAMPION)
        if str(current) == str(version):
            return
        # The tag first: if the second write fails, the champion is still the one before.
        if current:
            self.tracking.write(lambda: client.set_registered_model_tag(name, PREVIOUS_TAG, str(current)))
        self.tracking.write(lambda: client.set_registered_model_alias(name, CHAMPION, str(version)))

    def edit(self, reference: str, description: str, tags: Mapping[str, str]) -> Version:
        """Replace the description and the user's tags; the app's own tags stay."""
        secrets = known_secrets(self._settings, LMChoice(""), self._environ)
        _refuse_secrets(secrets, description, *tags, *tags.values())
        text, wanted = checked_words(description, tags)
        version = self.get(reference)
        client, name, number = self.tracking.client, version.name, str(version.version)

        def change() -> None:
            client.update_model_version(name, number, text)
            for key, value in wanted.items():
                client.set_model_version_tag(name, number, key, value)
            for key in set(version.tags) - set(wanted):
                client.delete_model_version_tag(name, number, key)

        self.tracking.write(change)
        return self.get(version.uri)

    def _version(self, item: ModelVersion, model: RegisteredModel | None) -> Version:
        """The version, with the aliases of its registered model: a search of versions gives none."""
        names, tags = model.aliases.items() if model else (), item.tags
        reason, noted = self._read_once(item)
        return Version(
            item.name,
            int(item.version),
            f"models:/{item.name}/{item.version}",
            aliases=tuple(sorted(alias for alias, number in names if str(number) == str(item.version))),
            description=item.description or "",
            tags={k: v for k, v in tags.items() if k not in OWN_TAGS and not k.startswith("mlflow.")},
            created_at=item.creation_timestamp / 1000,
            program=tags.get("program", ""),
            lm=tags.get("lm", ""),
            files=tuple(tags.get("files", "").splitlines()),
            reason=reason,
            same_code=not reason and "sources" in noted and runs_here(noted["sources"]),
            notes=noted,
        )

    def _read_once(self, item: ModelVersion) -> tuple[str, Mapping[str, Any]]:
        from mlflow.models import Model

        place = f"{item.name}/{item.version} {item.source}"
        if place not in self._contents:
            try:
                with self._files(item.name, item.version, "/MLmodel") as file:
                    model = Model.load(str(file))
            except Exception:  # of whatever store holds it; it is tried again at the next look
                return "Its files cannot be read from here.", {}
            noted = (model.metadata or {}).get(METADATA_KEY)
            reason = other_format(noted) if "dspy" in model.flavors else "It is not a DSPy program."
            self._contents[place] = reason, noted or {}
        return self._contents[place]

    @contextmanager
    def _files(self, name: str, version: int | str, file: str = "") -> Iterator[Path]:
        """The files of a version on this machine, or one of them."""
        from mlflow.artifacts import download_artifacts

        with tracking_errors():
            place = self.tracking.client.get_model_version_download_uri(name, str(version)).rstrip("/") + file
        with tempfile.TemporaryDirectory(prefix="dspy-demo-loaded-") as target:
            here = {"dst_path": target, "tracking_uri": self.tracking.uri}
            yield _local(place) or Path(download_artifacts(artifact_uri=place, **here))


def _local(location: str) -> Path | None:
    """The folder of an artifact location on this machine; None for one elsewhere."""
    place = urlsplit(location)
    return Path(urllib.request.url2pathname(place.path)) if place.scheme in ("", "file") else None


def _refuse_secrets(secrets: Mapping[str, str], *texts: str) -> None:
    if found := secret_in("\n".join(texts).encode(), secrets):
        raise InvalidInput(f"The name, description or tags hold {found[0]}. Take it out.")
