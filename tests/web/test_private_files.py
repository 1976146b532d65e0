"""Nobody else on the machine reads what the app keeps: chats, versions, keys of sessions, logs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import httpx
import pytest

from tests.processes import running_app


@pytest.mark.integration
def test_what_the_app_keeps_is_for_its_user_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "run").mkdir(parents=True)
    (data / "guests.db").touch()
    for path, mode in ((data, 0o755), (data / "run", 0o755), (data / "guests.db", 0o644)):
        path.chmod(mode)  # as an earlier start left them
    owner = {"authorization": "Bearer owner-token-0123456789"}
    env = {"DSPY_DEMO_OWNER_TOKEN": "owner-token-0123456789", "DSPY_DEMO_TRACING": "true"}
    previous = os.umask(0o022)
    try:
        with running_app("--public", data_dir=data, home=tmp_path, env=env) as app:
            with httpx.Client(base_url=app.url, headers=owner, timeout=120) as client:
                assert client.post("/predict", json={"text": "What is 2 + 2?"}).status_code == 200
                assert client.post("/versions", json={"name": "demo"}).status_code == 201
            open_to_others = [
                f"{path.relative_to(data)} {stat.S_IMODE(path.stat().st_mode):o}"
                for path in [data, *data.rglob("*")]
                if path.stat().st_mode & 0o077
            ]
    finally:
        os.umask(previous)
    assert (data / "mlflow.db").exists()
    assert (data / "session.key").exists()
    assert not open_to_others


def test_a_folder_with_other_things_in_it_is_left_as_it_is(tmp_path: Path) -> None:
    """``--data-dir .`` must not shut the folder of somebody's project."""
    from dspy_demo.settings import close_to_others

    other, own = tmp_path / "notes.txt", tmp_path / "mlflow.db"
    for path in (other, own):
        path.touch(mode=0o644)
    tmp_path.chmod(0o755)
    close_to_others(tmp_path)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path, other, own)]
    assert modes == [0o755, 0o644, 0o600]
