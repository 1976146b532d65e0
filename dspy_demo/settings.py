"""One `Settings` object: flags over environment over defaults.

``--help`` and docs/settings.md are drawn from it.
"""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from dspy_demo.adapters import ADAPTERS
from dspy_demo.errors import SettingsError

ENV_PREFIX = "DSPY_DEMO_"
#: Not a word of the URL itself: it is shown in the terminal.
WITH_CREDENTIALS = "must not hold a user or a password; give the key with --api-key or in its variable"


def _setting(
    group: str, default: Any, description: str, *, unit: str = "", env: str = "", **bounds: Any
) -> Any:
    """A field that is a flag. `env` is a variable that sets it beside the one with our prefix."""
    extra: dict[str, Any] = {"unit": unit, "env": [env] if env else [], "group": group}
    return Field(default, description=description, json_schema_extra=extra, **bounds)


_app = partial(_setting, "App")
_program = partial(_setting, "Program and model")
_local = partial(_setting, "Models on this machine")
_versions = partial(_setting, "Versions")
_share = partial(_setting, "Share")
_limit = partial(_setting, "Limits")
_guests = partial(_setting, "Guests")


class Settings(BaseModel):
    """Everything that can be set, with what it means."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    host: str = _app("127.0.0.1", "Address to listen on.", env="GRADIO_SERVER_NAME")
    port: int | None = _app(
        None, "Port; empty for 7860 or the next free one.", env="GRADIO_SERVER_PORT", ge=1, le=65535
    )
    open: bool = _app(True, "Open the page in the browser at start.")
    public: bool = _app(False, "Ask for the owner's link also at this machine, as behind a reverse proxy.")
    public_url: str | None = _app(
        None, "Address of the page for others, for which the owner's link is printed.", env="SPACE_HOST"
    )
    owner_token: SecretStr | None = _app(
        None, "Bearer token of the owner for the routes; without it a new one at each start.", min_length=16
    )
    cors_origins: tuple[str, ...] = _app(
        (), "Sites whose pages may call the routes, such as https://example.com; separated by commas."
    )
    embed: bool = _app(False, "Let other sites show the page in a frame. On where SPACE_ID is set (Spaces).")
    data_dir: Path = _app(Path("~/.local/share/dspy-demo"), "Folder for the cache, MLflow and artifacts.")
    log_level: Literal["debug", "info", "warning", "error"] = _app(
        "warning", "Lowest level to log. With info every turn is one line."
    )
    log_format: Literal["text", "json"] = _app("text", "Log lines for people, or as one JSON object each.")
    shutdown_grace_s: float = _app(5, "Time that running turns get to finish.", unit="s", ge=0, le=300)

    program: str | None = _program(
        None, "First program: a shipped name, package.module:attribute, or path/to/file.py[:name]."
    )
    adapter: str = _program("chat", f"How DSPy writes fields and reads them back: {', '.join(ADAPTERS)}.")
    lm: str | None = _program(
        None, "Language model: a LiteLLM string such as openai/gpt-4o-mini, or local/PATH.gguf."
    )
    api_base: str | None = _program(
        None, "Base URL of a server that speaks OpenAI's API, or with --lm that of its provider."
    )
    api_key: SecretStr | None = _program(None, "Key for --lm. Better set the provider's own variable.")
    temperature: float | None = _program(None, "Sampling temperature; empty for the model's own.", ge=0, le=2)
    max_tokens: int | None = _program(
        None, "Output per model call; empty for its own.", unit="tokens", ge=16, le=200_000
    )
    cache: bool = _program(True, "Answer a repeated request from DSPy's cache.")
    ollama_url: str = _program("http://127.0.0.1:11434", "Where to look for Ollama.", env="OLLAMA_HOST")

    models_dir: Path = _local(Path("~/.cache/dspy-demo/models"), "Folder for model files (GGUF).")
    hub_url: str = _local("https://huggingface.co", "Hub that models are downloaded from.", env="HF_ENDPOINT")
    local_context_tokens: int = _local(
        8192, "Longest chat with its reply.", unit="tokens", ge=512, le=1_000_000
    )

    tracking_uri: str | None = _versions(
        None, "MLflow server or database; empty for --data-dir.", env="MLFLOW_TRACKING_URI"
    )
    experiment: str = _versions("dspy-demo", "MLflow experiment for traces.", env="MLFLOW_EXPERIMENT_NAME")
    served_url: str | None = _versions(None, "A model server that runs elsewhere.")
    serve_env: tuple[str, ...] = _versions(
        (), "Variables that a served version finds beside its model's key, separated by commas."
    )
    tracing: bool = _versions(True, "Record each turn as an MLflow trace.")

    share: bool = _share(False, "Open a public link at start, as the Share button does.")
    share_server: str | None = _share(
        None, "Your own share server, as HOST:PORT.", env="GRADIO_SHARE_SERVER_ADDRESS"
    )

    input_max_chars: int = _limit(20_000, "Longest input of a turn.", unit="characters", ge=1, le=10_000_000)
    idle_timeout_s: float = _limit(60, "Longest silence of a model.", unit="s", gt=0, le=3600)
    total_timeout_s: float = _limit(300, "Longest time for a whole turn.", unit="s", gt=0, le=86_400)
    lm_retries: int = _limit(2, "Retries of a model call that failed before its first token.", ge=0, le=10)
    max_turns: int = _limit(300, "Turns that may run at the same time.", unit="turns", ge=1, le=100_000)
    max_connections: int = _limit(
        512, "Open connections, half of them by guests; a page holds about three.", ge=8
    )

    guests_concurrent_turns: int = _guests(
        8, "Guests' turns that may run at once, always fewer than --max-turns.", unit="turns", ge=1
    )
    guest_output_max_tokens: int = _guests(
        2_000, "Output of a guest's turn, all calls.", unit="tokens", ge=16, le=200_000
    )
    guests_daily_tokens: int = _guests(
        500_000, "Tokens that all guests may use a day (UTC).", unit="tokens/day", ge=0, le=10_000_000_000
    )
    guests_daily_usd: float = _guests(
        1.0, "Money that all guests may spend a day (UTC), where prices are known.", unit="USD/day", ge=0
    )
    guest_password: SecretStr | None = _guests(None, "Password that guests must type.", min_length=4)
    guest_token: SecretStr | None = _guests(None, "Bearer token for guests' scripts.", min_length=16)
    guest_programs: tuple[str, ...] = _guests((), "Programs for guests, separated by commas; empty for all.")
    guest_models: tuple[str, ...] = _guests(
        (), "Models for guests, separated by commas; empty for the first."
    )

    #: Longest reply of a turn in characters, all steps together; a longer one is ended there. Not a flag.
    reply_max_chars: int = 500_000
    #: Keys of providers by their variable, such as ``OPENAI_API_KEY``. Not a flag.
    provider_keys: Mapping[str, SecretStr] = Field(default_factory=dict, exclude=True, repr=False)
    #: Base URLs of providers by their variable, such as ``OPENAI_BASE_URL``. Not a flag.
    provider_bases: Mapping[str, str] = Field(default_factory=dict, exclude=True, repr=False)

    @field_validator("cors_origins", "guest_programs", "guest_models", "serve_env", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        parts = value.split(",") if isinstance(value, str) else value
        return [part for part in map(str.strip, parts) if part]

    @field_validator("adapter")
    @classmethod
    def _is_adapter(cls, value: str) -> str:
        if value not in ADAPTERS:
            raise ValueError(f"must be one of {', '.join(ADAPTERS)}")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            parts = urlsplit(origin)
            if parts.scheme not in {"http", "https"} or origin != f"{parts.scheme}://{parts.netloc}":
                raise ValueError("must be origins such as https://example.com, without a path")
        return value

    @field_validator("data_dir", "models_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    @field_validator("share_server")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value and not re.fullmatch(r"[\w.-]+:\d{1,5}", value):
            raise ValueError("must be HOST:PORT such as share.example.com:7000")
        return value

    @field_validator("ollama_url", "public_url", mode="before")
    @classmethod
    def _with_scheme(cls, value: Any, info: ValidationInfo) -> Any:
        """OLLAMA_HOST may be a bare host:port, 0.0.0.0 where it listens on all; SPACE_HOST is a bare host."""
        if isinstance(value, str) and "://" not in value:
            value = f"{'http' if info.field_name == 'ollama_url' else 'https'}://{value}"
        return value.replace("//0.0.0.0", "//127.0.0.1") if isinstance(value, str) else value

    @field_validator("api_base", "ollama_url", "served_url", "hub_url", "public_url")
    @classmethod
    def _is_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        parts = urlsplit(value) if value else None
        if parts and (parts.scheme not in {"http", "https"} or not parts.hostname):
            raise ValueError("must be a URL such as http://localhost:8000/v1")
        if value and info.field_name in {"api_base", "ollama_url"} and has_credentials(value):
            raise ValueError(WITH_CREDENTIALS)
        return value

    @classmethod
    def load(cls, argv: Sequence[str], environ: Mapping[str, str]) -> Self:
        """Settings from flags, then the environment, then defaults."""
        flags = vars(argument_parser().parse_args(list(argv)))
        values: dict[str, Any] = {}
        source: dict[str, str] = {}
        for name, _, extra in _flags():
            for variable in reversed([ENV_PREFIX + name.upper(), *extra["env"]]):
                if environ.get(variable):
                    values[name], source[name] = environ[variable], variable
            if name in flags:
                values[name], source[name] = flags[name], flag_name(name)
        if environ.get("SPACE_ID"):
            values.setdefault("embed", True)
        try:
            settings = cls(**values, **_of_providers(environ))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = str(first["loc"][0]) if first["loc"] else ""
            message = first["msg"].removeprefix("Value error, ")
            raise SettingsError(f"{source.get(name, name)}: {message}.") from None
        for variable in settings.serve_env:
            if variable not in environ:
                raise SettingsError(f"{source['serve_env']}: {variable} is not set in the environment.")
        return settings

    def variables(self, names: Iterable[str]) -> dict[str, str]:
        """The environment by which another process of ours gets the settings of these names."""
        return {ENV_PREFIX + name.upper(): _text(getattr(self, name)) for name in names}

    @property
    def cache_dir(self) -> Path:
        return self.data_dir / "cache"


def flag_name(name: str) -> str:
    return "--" + name.replace("_", "-")


def _flags() -> list[tuple[str, FieldInfo, dict[str, Any]]]:
    """The settings that are flags: name, field, and unit, group and further variables."""
    fields = [(name, info, info.json_schema_extra) for name, info in Settings.model_fields.items()]
    return [(name, info, extra) for name, info, extra in fields if isinstance(extra, dict)]


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def documented() -> list[dict[str, str]]:
    """Every setting as a row: flag, variables, default, unit, bounds, meaning, group."""
    words, rows = {"Ge": "at least", "Gt": "more than", "Le": "at most"}, []
    for name, info, extra in _flags():
        limits = {type(limit).__name__: limit for limit in info.metadata}
        bounds = [f"{words[kind]} {getattr(limits[kind], kind.lower())}" for kind in limits if kind in words]
        rows.append(
            {
                "flag": flag_name(name) + (f" / --no-{name}" if info.annotation is bool else ""),
                "env": ", ".join([ENV_PREFIX + name.upper(), *extra["env"]]),
                "default": "" if info.default in (None, ()) else _text(info.default),
                "unit": extra["unit"],
                "bounds": ", ".join(bounds),
                "meaning": info.description or "",
                "group": extra["group"],
            }
        )
    return rows


def argument_parser() -> argparse.ArgumentParser:
    """The flags of the app. Values stay text; the settings validate them."""
    parser = argparse.ArgumentParser(
        prog="python app.py",
        description="Chat with a DSPy program, watch it reason, log it to MLflow and serve it.",
        epilog="Every flag can be set by its variable; flags win. Times are in seconds.",
    )
    groups: dict[str, Any] = {}
    for (name, info, _), row in zip(_flags(), documented(), strict=True):
        group = groups.setdefault(row["group"], parser.add_argument_group(row["group"]))
        default = f"default {row['default']}" if row["default"] else ""
        notes = "; ".join(filter(None, (row["unit"], row["bounds"], default, f"env {row['env']}")))
        meaning = f"{row['meaning']} [{notes}]".replace("%", "%%")
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": meaning}
        if info.annotation is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["metavar"] = name.rsplit("_", 1)[-1].upper()
        group.add_argument(flag_name(name), **options)
    return parser


#: The mode mask of a process of ours: its files are read by their user alone, who may have chats in them.
PRIVATE_UMASK = 0o077


def close_to_others(data_dir: Path) -> None:
    """Take other users' rights from what earlier starts left; the folder itself may hold other things."""
    for name in ("artifacts", "cache", "logs", "run", "guests.db", "mlflow.db", "session.key"):
        path = data_dir / name
        with contextlib.suppress(OSError):  # not there, or not ours to change
            path.chmod(0o700 if path.is_dir() else 0o600)


def _of_providers(environ: Mapping[str, str]) -> dict[str, Any]:
    """The keys and base URLs of providers; not ours, which begin with `ENV_PREFIX`."""
    given = {name: value for name, value in environ.items() if value and not name.startswith(ENV_PREFIX)}
    keys = {name: SecretStr(value) for name, value in given.items() if name.endswith("_API_KEY")}
    bases = {name: value for name, value in given.items() if name.endswith(("_API_BASE", "_BASE_URL"))}
    return {"provider_keys": keys, "provider_bases": bases}


def has_credentials(url: str) -> bool:
    """Whether there is a user or a password before the host of a URL."""
    return "@" in re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]


def prepare_libraries(settings: Settings, environ: MutableMapping[str, str]) -> None:
    """Set what the libraries read from the environment at import. Call before importing them."""
    # Else litellm fetches its price list on import (5 s on a silent host), and `mlflow server` hangs offline.
    environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")
    environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Seven retries of 120 s each would hold a click for minutes.
    environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    environ.setdefault("DSPY_CACHEDIR", str(settings.cache_dir))
