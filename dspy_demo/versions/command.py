"""``python app.py log``: log a version from a script."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
import traceback
import warnings
from collections.abc import Mapping, MutableMapping, Sequence

from dspy_demo.command_line import argument_parser
from dspy_demo.errors import DemoError, InvalidInput
from dspy_demo.settings import Settings, prepare_libraries
from dspy_demo.versions.version import MODEL_NAME


def log_command(argv: Sequence[str], environ: MutableMapping[str, str]) -> int:
    """Log the program of the settings; the last line on standard output is the version's URI.

    Args:
        argv: After the word ``log``: its own flags and any of the app's.

    Returns:
        0, or 2 with a sentence on standard error.

    Raises:
        SystemExit: For ``--help`` and unknown flags, as argparse does.
    """
    if {"-h", "--help"} & set(argv):
        _parser([argument_parser(Settings)]).parse_args(["--help"])
    own, rest = _parser([]).parse_known_args(list(argv))
    try:
        settings = Settings.load(rest, environ)
        own.tag = dict(_tag(text) for text in own.tag)
        prepare_libraries(settings, environ)
        logging.getLogger().setLevel(logging.ERROR)
        # What libraries print goes to standard error, so that a script can read the last line of the output.
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(sys.stderr):
            uri = _log(settings, environ, own)
    except DemoError as error:
        if "debug" in argv:  # its text may hold addresses and keys, so only where it was asked for
            traceback.print_exception(error)
        print(error.public_message, file=sys.stderr)  # noqa: T201 - the command's own output
        return 2
    print(uri)  # noqa: T201 - the command's own output
    return 0


def _log(settings: Settings, environ: Mapping[str, str], own: argparse.Namespace) -> str:
    from dspy_demo.lm.choices import detect
    from dspy_demo.programs.registry import offered
    from dspy_demo.versions.store import VersionStore
    from dspy_demo.versions.version import LogRequest

    programs = offered(settings)
    choice = asyncio.run(detect(settings)).choice
    store = VersionStore(settings, environ)
    store.prepare(lambda step: print(f"{step} …", file=sys.stderr))  # noqa: T201
    name = own.name or MODEL_NAME
    request = LogRequest(name, programs.default.name, choice, own.description, own.tag)
    return store.log(request, programs, settings.adapter).uri


def _parser(parents: list[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """The command's own flags; with the app's parser as a parent it can show all of them."""
    parser = argparse.ArgumentParser(
        prog="python app.py log",
        description="Log the program as a version in MLflow. The last line of the output is its URI.",
        parents=parents,
        add_help=False,
        allow_abbrev=False,
    )
    group = parser.add_argument_group("Log")
    group.add_argument("--name", help=f"name of the registered model [{MODEL_NAME}]")
    group.add_argument("--description", default="", help="what this version is")
    group.add_argument("--tag", action="append", default=[], metavar="KEY=VALUE", help="may be repeated")
    return parser


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InvalidInput(f"--tag {text[:60]}: write it as KEY=VALUE, for example team=search.")
    return key.strip(), value.strip()
