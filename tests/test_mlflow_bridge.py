"""What the app uses of MLflow beyond its documentation is still as it was; without it nothing breaks.

The traces that it writes are read back in `tests/tracing`, the programs in `tests/versions`.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from dspy_demo import mlflow_bridge
from dspy_demo.errors import InvalidInput, TrackingError, TrackingUnavailable, VersionNotFound
from dspy_demo.mlflow_bridge import tracking_errors
from dspy_demo.settings import Settings
from dspy_demo.versions.tracking import DATABASE_NAME, Tracking


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    tracking = Tracking(Settings(data_dir=tmp_path_factory.mktemp("bridge")))
    tracking.prepare()
    return tracking


def test_what_the_user_can_mend_is_said() -> None:
    for error, kind, sentence in (
        (sqlite3.OperationalError("database is locked"), TrackingUnavailable, mlflow_bridge.LOCKED),
        (MlflowException("API request: error code 401"), TrackingUnavailable, mlflow_bridge.LOGIN),
        (ConnectionResetError(), TrackingUnavailable, TrackingUnavailable.default_message),
        (ValueError("SECRET"), TrackingError, TrackingError.default_message),
    ):
        with pytest.raises(kind) as caught, tracking_errors():
            raise error
        assert caught.value.public_message == sentence


def test_its_own_errors_keep_their_codes_and_words(tracking: Tracking, tmp_path: Path) -> None:
    with pytest.raises(VersionNotFound), tracking_errors():
        tracking.client.get_registered_model("nothing")
    with pytest.raises(InvalidInput), tracking_errors():
        tracking.client.create_registered_model("")
    path = shutil.copy(tracking.data_dir / DATABASE_NAME, tmp_path / "theirs.db")
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    theirs = Tracking(Settings(data_dir=tmp_path, tracking_uri=f"sqlite:///{path}"))
    with pytest.raises(TrackingUnavailable) as caught:
        theirs.prepare()
    assert caught.value.public_message == mlflow_bridge.OUTDATED
