"""From a program of the page to a registered version, or to nothing at all."""

from __future__ import annotations

import logging
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy_demo
from dspy_demo.errors import InvalidInput, VersionNotLogged
from dspy_demo.versions.confidential import find_secret, public_url, secret_in
from dspy_demo.versions.source_code import APP
from dspy_demo.versions.tracking import Tracking, tracking_errors
from dspy_demo.versions.version import LogRequest, check_description, check_name, check_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

    from dspy_demo.versions.artifact import Draft
    from dspy_demo.versions.trial import Trials

log = logging.getLogger(__name__)

GIT_TIMEOUT_S = 2.0
#: How many characters the tag may have that lists the files which travel along.
FILES_TAG_MAX_CHARS = 1000


def checked(request: LogRequest, secrets: Mapping[str, str]) -> LogRequest:
    """The request with its texts in order.

    Raises:
        InvalidInput: A name, tag or description cannot be stored, or one of them holds a secret.
    """
    name, description = check_name(request.name), check_description(request.description)
    tags = check_tags(request.tags)
    refuse_secrets([name, description, *tags, *tags.values()], secrets)
    return replace(request, name=name, description=description, tags=tags)


def refuse_secrets(texts: Iterable[str], secrets: Mapping[str, str]) -> None:
    """
    Raises:
        InvalidInput: One of the texts holds a secret.
    """
    if found := secret_in("\n".join(texts).encode(), secrets):
        raise InvalidInput(f"The name, description or tags hold {found[0]}. Take it out.")


def log_version(
    tracking: Tracking, draft: Draft, request: LogRequest, trials: Trials, secrets: Mapping[str, str]
) -> ModelVersion:
    """Make the files, try them in a new process, search them for secrets; then store and register them.

    Raises:
        VersionNotLogged: No new process can load it, or it holds a secret.
        TrackingUnavailable: MLflow's store failed. What was begun is removed again.
    """
    with tempfile.TemporaryDirectory(prefix="dspy-demo-version-") as temporary:
        folder = Path(temporary)
        trials.prepare(draft, folder)
        _refuse_secrets_in(folder, draft, secrets)
        files = trials.run(draft, folder)
        _refuse_secrets_in(folder / "model", draft, secrets)
        tags = version_tags(draft, files, git_commit([*draft.own.folders, Path(__file__).parent][0]))
        return _stored(tracking, request, folder / "model", tags)


def _refuse_secrets_in(folder: Path, draft: Draft, secrets: Mapping[str, str]) -> None:
    from dspy_demo.versions.artifact import secret_sentence

    words = draft.own.words | {draft.spec.name}
    wanted = {value: name for value, name in secrets.items() if value not in words} | draft.removed
    if found := find_secret(folder, wanted, skipped=folder / "code" / APP):
        raise VersionNotLogged(secret_sentence(found))


def _stored(tracking: Tracking, request: LogRequest, model: Path, tags: dict[str, str]) -> ModelVersion:
    """The registered version; what was begun in the store is removed again where a step fails."""
    client, experiment_id = tracking.client, tracking.experiment_id
    logged: LoggedModel = tracking.write(
        lambda: client.create_logged_model(
            experiment_id, _logged_name(request.name), tags=tags, model_type="dspy"
        )
    )
    try:
        with tracking_errors():
            client.log_model_artifacts(logged.model_id, str(model))
        tracking.write(lambda: client.finalize_logged_model(logged.model_id, "READY"))
        return tracking.write(lambda: _register(tracking, request, logged, tags))
    except BaseException:
        _undo(client, logged)
        raise


def _undo(client: MlflowClient, logged: LoggedModel) -> None:
    """Delete what a failed log began. What failed is reported; that it left something is for the log."""
    # The files first: on a full disk the rest needs their room.
    steps: list[Callable[[], Any]] = [
        lambda: _remove_files(logged),
        lambda: client.delete_logged_model(logged.model_id),
    ]
    for step in steps:
        try:
            step()
        except Exception:
            log.warning(
                "a failed log left something in MLflow", exc_info=True, extra={"model_id": logged.model_id}
            )


def _register(
    tracking: Tracking, request: LogRequest, logged: LoggedModel, tags: dict[str, str]
) -> ModelVersion:
    """The version of `logged`, and the registered model where its name is new.

    A tracking server gets the logged model's id too, to find that the source is one of its own. A database
    does not keep the id, but MLflow would look it up at the process's global tracking URI: ./mlflow.db where
    nobody set one.
    """
    from mlflow.exceptions import MlflowException

    client = tracking.client

    def create() -> ModelVersion:
        return client.create_model_version(
            request.name,
            logged.artifact_location,
            tags={**tags, **request.tags},
            description=request.description or None,
            model_id=logged.model_id if tracking.remote else None,
        )

    try:
        return create()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    try:
        client.create_registered_model(request.name)
    except MlflowException as error:  # somebody else made it just now
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return create()
    try:
        return create()
    except BaseException:
        client.delete_registered_model(request.name)
        raise


def version_tags(draft: Draft, files: list[str], commit: str) -> dict[str, str]:
    """The app's own tags: how the version runs, where it comes from, what travels with it."""
    choice = draft.choice
    tags = {
        "program": draft.spec.name,
        "lm": choice.model,
        "adapter": draft.adapter,
        "app_version": dspy_demo.__version__,
        "temperature": choice.temperature,
        "max_tokens": choice.max_tokens,
        "api_base": public_url(choice.api_base),
        "git_commit": commit,
        "files": "\n".join(files)[:FILES_TAG_MAX_CHARS],
    }
    return {name: str(value) for name, value in tags.items() if value not in (None, "")}


def git_commit(folder: Path) -> str:
    """The commit that is checked out where the program's source is, or empty."""
    git = shutil.which("git")
    if git is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command, no shell
            [git, "-C", str(folder), "rev-parse", "--verify", "--quiet", "HEAD"],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def local_folder(location: str) -> Path | None:
    """The folder of an artifact location on this machine, or None for one elsewhere."""
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    return Path(local_file_uri_to_path(location)) if is_local_uri(location) else None


def _remove_files(logged: LoggedModel) -> None:
    if folder := local_folder(logged.artifact_location):
        shutil.rmtree(folder.parent, ignore_errors=True)


def _logged_name(name: str) -> str:
    """MLflow refuses these characters in a logged model's name."""
    return "".join("-" if letter in "/:.%\"'" else letter for letter in name)
