"""What a log that was killed midway left: a run that runs for ever, a logged model, half of its files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from dspy_demo.versions.file_lock import locked

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

#: A log takes seconds. One that began so long ago and has not ended will not.
GIVEN_UP_AFTER_S = 600.0


def unfinished_logs(client: MlflowClient, experiment_id: str) -> list[tuple[Run, LoggedModel | None]]:
    """The runs of logs by this app that did not end, with the logged model where it came to that."""
    before_ms = int((time.time() - GIVEN_UP_AFTER_S) * 1000)
    ours = f"attributes.status = 'RUNNING' AND attributes.start_time < {before_ms} AND tags.app_version != ''"
    found = []
    for run in client.search_runs([experiment_id], ours):
        models = client.search_logged_models([experiment_id], f"source_run_id = '{run.info.run_id}'")
        found.append((run, models[0] if models else None))
    return found


def remove_side_files(database: Path) -> None:
    """Remove what a killed maker of the database left beside it. Makers hold the lock, so nobody else's."""
    left = list(database.parent.glob(f"{database.name}.*.making*"))
    if left:
        with locked(database):
            for file in left:
                file.unlink(missing_ok=True)
