"""From a program of the page to a registered version, or to nothing at all."""

from __future__ import annotations

import logging
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy_demo
from dspy_demo.errors import InvalidInput
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.settings import Settings
from dspy_demo.versions.confidential import known_secrets, public_url, secret_in
from dspy_demo.versions.tracking import Tracking, tracking_errors
from dspy_demo.versions.version import LogRequest, check_description, check_name, check_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

    from dspy_demo.versions.artifact import Draft

log = logging.getLogger(__name__)

GIT_TIMEOUT_S = 2.0


def checked(request: LogRequest, settings: Settings) -> LogRequest:
    """The request with its texts in order.

    Raises:
        InvalidInput: A name, tag or description cannot be stored, or one of them holds a key.
    """
    name, description = check_name(request.name), check_description(request.description)
    tags = check_tags(request.tags)
    typed = "\n".join([name, description, *tags, *tags.values()]).encode()
    if found := secret_in(typed, known_secrets(settings, request.lm)):
        raise InvalidInput(f"The name, description or tags hold {found}. Take it out.")
    return replace(request, name=name, description=description, tags=tags)


def log_version(
    tracking: Tracking, request: LogRequest, programs: ProgramRegistry, adapter: str, settings: Settings
) -> ModelVersion:
    """Log and register; the version comes last, when its files are complete and were read back.

    Raises:
        NotFound: There is no such program.
        VersionNotLogged: The program cannot be saved, or only with a secret in it.
        TrackingUnavailable: MLflow's store failed. What was begun is removed again.
    """
    from dspy_demo.versions.artifact import Draft, in_clean_context

    spec, module = programs.get(request.program), programs.module(request.program)
    client = tracking.prepare()
    draft: Draft = in_clean_context(Draft, spec, module, request.lm, spec.adapter or adapter, settings)
    tags = version_tags(draft)
    with (
        ThreadPoolExecutor(1, "log-version") as beside,
        _begun(tracking, request, draft, tags) as (run_id, logged),
    ):
        # Beside the writing of the files: git is another process, SQLite waits for the disk.
        commit = beside.submit(git_commit, draft.own.folder or Path(__file__).parent)
        linked = beside.submit(tracking.write, lambda: _link(client, run_id, logged))
        in_clean_context(_write_files, tracking, logged, run_id, draft, known_secrets(settings, request.lm))
        linked.result()
        tags |= {"git_commit": commit.result()} if commit.result() else {}
        tracking.write(lambda: _complete(client, run_id, logged))
        return tracking.write(lambda: _register(client, request, logged, run_id, tags))


@contextmanager
def _begun(
    tracking: Tracking, request: LogRequest, draft: Draft, tags: dict[str, str]
) -> Iterator[tuple[str, LoggedModel]]:
    """A run and a logged model, both of which end as deleted when the block fails."""
    client, experiment_id = tracking.client, tracking.experiment_id
    run = tracking.write(
        lambda: client.create_run(
            experiment_id, run_name=f"log {request.name}", tags={**tags, **request.tags}
        )
    )
    run_id = str(run.info.run_id)
    logged: Any = None
    try:
        logged = tracking.write(
            lambda: client.create_logged_model(
                experiment_id, _logged_name(request.name), run_id, tags=tags, model_type="dspy"
            )
        )
        yield run_id, logged
    except BaseException:
        _undo(client, run_id, logged)
        raise


def _undo(client: MlflowClient, run_id: str, logged: LoggedModel | None) -> None:
    """Delete what a failed log began. What failed is reported; that it left something is for the log."""
    steps: list[Callable[[], Any]] = [
        lambda: client.set_terminated(run_id, "FAILED"),
        lambda: client.delete_run(run_id),
    ]
    if logged is not None:
        # The files first: on a full disk the rest needs their room.
        steps = [lambda: _remove_files(logged), *steps, lambda: client.delete_logged_model(logged.model_id)]
    for step in steps:
        try:
            step()
        except Exception:
            log.warning("a failed log left something in MLflow", exc_info=True, extra={"run_id": run_id})


def _write_files(
    tracking: Tracking, logged: LoggedModel, run_id: str, draft: Draft, secrets: dict[str, str]
) -> None:
    """Save, check and store the files: in place where the store is a folder here, else by upload."""
    from mlflow.models import Model

    model = Model(
        artifact_path=logged.artifact_location,
        run_id=run_id,
        model_uuid=logged.model_id,
        model_id=logged.model_id,
    )
    if folder := local_folder(logged.artifact_location):
        with tracking_errors():
            draft.save(folder, model)
            draft.check(folder, secrets)
        return
    with tempfile.TemporaryDirectory(prefix="dspy-demo-version-") as temporary, tracking_errors():
        draft.save(Path(temporary, "model"), model)
        draft.check(Path(temporary, "model"), secrets)
        tracking.client.log_model_artifacts(logged.model_id, str(Path(temporary, "model")))


def _link(client: MlflowClient, run_id: str, logged: LoggedModel) -> None:
    """Show the logged model on the run's page."""
    from mlflow.entities import LoggedModelOutput

    output: Any = LoggedModelOutput(logged.model_id, step=0)
    client.log_outputs(run_id, [output])


def _complete(client: MlflowClient, run_id: str, logged: LoggedModel) -> None:
    client.finalize_logged_model(logged.model_id, "READY")
    client.set_terminated(run_id)


def _register(
    client: MlflowClient, request: LogRequest, logged: LoggedModel, run_id: str, tags: dict[str, str]
) -> ModelVersion:
    """The version of `logged`, and the registered model where its name is new.

    Its source is the path, not ``models:/ID``: for that the SQL store (mlflow 3.17) asks the process's global
    tracking URI, which is ./mlflow.db where nobody set it.
    """
    from mlflow.exceptions import MlflowException

    def create() -> ModelVersion:
        return client.create_model_version(
            request.name,
            logged.artifact_location,
            run_id,
            tags={**tags, **request.tags},
            description=request.description or None,
            model_id=logged.model_id,
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


def version_tags(draft: Draft) -> dict[str, str]:
    """The app's own tags, but for the git commit: how the version runs and where it comes from."""
    choice = draft.choice
    tags = {
        "program": draft.spec.name,
        "lm": choice.model,
        "adapter": draft.adapter,
        "app_version": dspy_demo.__version__,
        "temperature": choice.temperature,
        "max_tokens": choice.max_tokens,
        "api_base": public_url(choice.api_base),
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
    """MLflow (3.17) refuses these characters in a logged model's name."""
    return "".join("-" if letter in "/:.%\"'" else letter for letter in name)
