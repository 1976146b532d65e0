"""The command line and its documentation, drawn from the fields of the settings."""

from __future__ import annotations

import argparse
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

ENV_PREFIX = "DSPY_DEMO_"


def fields(settings: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    """The fields that are flags, with their names."""
    return [(name, info) for name, info in settings.model_fields.items() if info.json_schema_extra]


def details(info: FieldInfo) -> dict[str, Any]:
    """The unit, further variables and the group of a flag."""
    assert isinstance(info.json_schema_extra, dict)
    return info.json_schema_extra


def text(value: Any) -> str:
    """A value as it is given on the command line or in a variable."""
    return ",".join(value) if isinstance(value, tuple) else str(value)


def flag_name(name: str) -> str:
    return "--" + name.replace("_", "-")


def env_names(name: str, info: FieldInfo) -> list[str]:
    """The variables that set a field, first one wins."""
    return [ENV_PREFIX + name.upper(), *details(info)["env"]]


def documented(settings: type[BaseModel]) -> list[dict[str, str]]:
    """Every setting as a row: flag, variables, default, unit, bounds, meaning, group."""
    return [
        {
            "flag": flag_name(name) + (f" / --no-{name}" if info.annotation is bool else ""),
            "env": ", ".join(env_names(name, info)),
            "default": "" if info.default in (None, (), PydanticUndefined) else text(info.default),
            "unit": str(details(info)["unit"]),
            "bounds": _bounds(info),
            "meaning": info.description or "",
            "group": str(details(info)["group"]),
        }
        for name, info in fields(settings)
    ]


def _bounds(info: FieldInfo) -> str:
    words = {"Ge": "at least", "Gt": "more than", "Le": "at most", "Lt": "less than"}
    limits = {type(limit).__name__: limit for limit in info.metadata}
    shown = [kind for kind in limits if kind in words]
    return ", ".join(f"{words[kind]} {getattr(limits[kind], kind.lower())}" for kind in shown)


def argument_parser(settings: type[BaseModel]) -> argparse.ArgumentParser:
    """The flags of the app. Values stay text; the settings validate them."""
    parser = argparse.ArgumentParser(
        prog="python app.py",
        description="Chat with a DSPy program, watch it reason, log it to MLflow and serve it.",
        epilog="Every flag can be set by its variable; flags win. Times are in seconds.",
    )
    groups: dict[str, Any] = {}
    for (name, info), row in zip(fields(settings), documented(settings), strict=True):
        group = groups.setdefault(row["group"], parser.add_argument_group(row["group"]))
        default = f"default {row['default']}" if row["default"] else ""
        notes = "; ".join(filter(None, (row["unit"], row["bounds"], default, f"env {row['env']}")))
        meaning = f"{row['meaning']} [{notes}]".replace("%", "%%")
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": meaning}
        if info.annotation is bool:
            group.add_argument(flag_name(name), action=argparse.BooleanOptionalAction, **options)
        else:
            group.add_argument(flag_name(name), metavar=name.rsplit("_", 1)[-1].upper(), **options)
    return parser
