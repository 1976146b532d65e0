"""Settings: flags over environment over defaults, each with its bounds and its documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from dspy_demo.errors import SettingsError
from dspy_demo.lm.providers import PROVIDERS
from dspy_demo.settings import Settings, documented, prepare_libraries

SPACE = {"SPACE_ID": "me/demo", "SPACE_HOST": "me-demo.hf.space"}


@pytest.mark.parametrize(
    ("flags", "environ", "expected"),
    [
        ([], {}, {"port": None, "host": "127.0.0.1", "open": True, "share": False, "embed": False}),
        ([], {"GRADIO_SERVER_PORT": "1", "DSPY_DEMO_PORT": "2"}, {"port": 2}),  # ours wins over a shared one
        (["--no-open", "--port", "3"], {"DSPY_DEMO_PORT": "2"}, {"open": False, "port": 3}),
        ([], {"OLLAMA_HOST": "0.0.0.0:11434"}, {"ollama_url": "http://127.0.0.1:11434"}),
        ([], SPACE, {"embed": True, "public_url": "https://me-demo.hf.space"}),
        (["--no-embed"], SPACE, {"embed": False}),
        (["--data-dir", "here"], {}, {"data_dir": Path.cwd() / "here"}),
        (["--guest-models", "a/b, c/d,"], {}, {"guest_models": ("a/b", "c/d")}),
    ],
)
def test_flags_win_over_the_environment_over_defaults(flags, environ, expected):
    settings = Settings.load(flags, environ)
    assert {name: getattr(settings, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("flags", "environ", "where"),
    [
        (["--port", "0"], {}, "--port"),
        (["--temperature", "3"], {}, "--temperature"),
        (["--api-base", "localhost:8000"], {}, "--api-base"),
        ([], {"DSPY_DEMO_IDLE_TIMEOUT_S": "0"}, "DSPY_DEMO_IDLE_TIMEOUT_S"),
    ],
)
def test_a_wrong_value_is_named_by_where_it_came_from(flags, environ, where):
    with pytest.raises(SettingsError) as caught:
        Settings.load(flags, environ)
    assert caught.value.public_message.startswith(where)


def test_secrets_do_not_show():
    environ = {name: f"sk-{name}" for provider in PROVIDERS for name in provider.keys}
    settings = Settings.load(["--api-key", "sk-typed"], environ)
    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert "sk-" not in shown
    assert settings.provider_keys.keys() == environ.keys()


def test_every_setting_is_documented_and_in_the_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        Settings.load(["--help"], {})
    assert stopped.value.code == 0
    shown, rows = capsys.readouterr().out, documented()
    assert 20 < len(rows) <= 45
    numbers = {name for name, info in Settings.model_fields.items() if info.annotation in {int, float}}
    for row in rows:
        flag = row["flag"].split(" /")[0]
        assert flag in shown and row["meaning"].endswith(".")
        if flag.removeprefix("--").replace("-", "_") in numbers:
            assert row["bounds"], f"{flag} has no bound"


def test_libraries_are_told_to_stay_offline_and_in_the_data_folder(data_dir):
    users = {"OPENAI_API_BASE": "http://x", "MLFLOW_DISABLE_TELEMETRY": "false"}
    environ = dict(users)
    prepare_libraries(Settings.load(["--data-dir", str(data_dir)], {}), environ)
    assert environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "true"
    assert environ["DSPY_CACHEDIR"].startswith(str(data_dir))
    assert users.items() <= environ.items()  # a user's own values stay as they are
    assert not list(data_dir.iterdir())
