"""Settings: flags over environment over defaults, each with its bounds and its documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from dspy_demo.command_line import documented
from dspy_demo.errors import SettingsError
from dspy_demo.lm.providers import PROVIDERS
from dspy_demo.settings import Settings, prepare_libraries


def test_flags_win_over_the_environment_over_defaults() -> None:
    environ = {"DSPY_DEMO_PORT": "9000", "DSPY_DEMO_HOST": "0.0.0.0"}
    assert Settings.load([], {}).port is None
    assert Settings.load([], environ).port == 9000
    settings = Settings.load(["--port", "8000"], environ)
    assert (settings.port, settings.host) == (8000, "0.0.0.0")


def test_our_own_variable_wins_over_a_shared_one() -> None:
    environ = {"GRADIO_SERVER_PORT": "1", "DSPY_DEMO_PORT": "2"}
    assert Settings.load([], environ).port == 2
    assert Settings.load([], {"GRADIO_SERVER_PORT": "1"}).port == 1


@pytest.mark.parametrize(
    ("flags", "environ", "where"),
    [
        (["--port", "0"], {}, "--port"),
        (["--temperature", "3"], {}, "--temperature"),
        (["--max-tokens", "many"], {}, "--max-tokens"),
        (["--api-base", "localhost:8000"], {}, "--api-base"),
        (["--log-level", "loud"], {}, "--log-level"),
        ([], {"DSPY_DEMO_IDLE_TIMEOUT_S": "0"}, "DSPY_DEMO_IDLE_TIMEOUT_S"),
    ],
)
def test_a_wrong_value_is_named_by_where_it_came_from(
    flags: list[str], environ: dict[str, str], where: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load(flags, environ)
    assert caught.value.public_message.startswith(where)


@pytest.mark.parametrize(
    ("flags", "open_", "share"),
    [([], True, False), (["--no-open", "--share"], False, True), (["--open", "--no-share"], True, False)],
)
def test_switches(flags: list[str], open_: bool, share: bool) -> None:
    settings = Settings.load(flags, {})
    assert (settings.open, settings.share) == (open_, share)


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("127.0.0.1:11434", "http://127.0.0.1:11434"),
        ("0.0.0.0:11434", "http://127.0.0.1:11434"),
        ("https://ollama.example", "https://ollama.example"),
    ],
)
def test_ollama_host_as_ollama_writes_it(value: str, url: str) -> None:
    assert Settings.load([], {"OLLAMA_HOST": value}).ollama_url == url


def test_a_space_shows_the_page_in_a_frame_unless_told_otherwise() -> None:
    space = {"SPACE_ID": "me/demo", "SPACE_HOST": "me-demo.hf.space"}
    assert not Settings.load([], {}).embed
    assert Settings.load([], space).embed
    assert not Settings.load(["--no-embed"], space).embed


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, None),
        ({"SPACE_HOST": "me-demo.hf.space"}, "https://me-demo.hf.space"),
        ({"DSPY_DEMO_PUBLIC_URL": "http://demo.lan:8080/chat"}, "http://demo.lan:8080/chat"),
    ],
)
def test_the_address_for_others(environ: dict[str, str], url: str | None) -> None:
    assert Settings.load([], environ).public_url == url


def test_secrets_do_not_show() -> None:
    environ = {name: f"sk-{name}" for provider in PROVIDERS for name in provider.keys}
    settings = Settings.load(["--api-key", "sk-typed"], environ)
    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert "sk-" not in shown
    assert settings.provider_keys.keys() == environ.keys()


def test_every_setting_is_documented_and_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        Settings.load(["--help"], {})
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    rows = documented(Settings)
    assert len(rows) > 20
    for row in rows:
        assert row["flag"].split(" /")[0] in shown
        assert row["meaning"].endswith(".")
    numbers = [name for name, info in Settings.model_fields.items() if info.annotation in {int, float}]
    for row in rows:
        if row["flag"].removeprefix("--").replace("-", "_") in numbers:
            assert row["bounds"], f"{row['flag']} has no bound"


def test_the_data_folder_is_absolute() -> None:
    assert Settings.load([], {}).data_dir.is_absolute()
    assert Settings.load(["--data-dir", "here"], {}).data_dir == Path.cwd() / "here"


def test_libraries_are_told_to_stay_offline_and_in_the_data_folder(data_dir: Path) -> None:
    users = {"OPENAI_API_BASE": "http://x", "MLFLOW_DISABLE_TELEMETRY": "false"}
    environ = dict(users)
    prepare_libraries(Settings.load(["--data-dir", str(data_dir)], {}), environ)
    assert environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "true"
    assert environ["DSPY_CACHEDIR"].startswith(str(data_dir))
    assert users.items() <= environ.items()  # a user's own values stay as they are
    assert not list(data_dir.iterdir())
