"""``python app.py log``: log a version from a script."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
import warnings
from collections.abc import MutableMapping, Sequence

from dspy_demo.errors import DemoError, InvalidInput
from dspy_demo.settings import Settings, argument_parser, prepare_libraries
from dspy_demo.versions.version import MODEL_NAME, LogRequest


def log_command(argv: Sequence[str], environ: MutableMapping[str, str]) -> int:
    """Log the program by the flags after the word ``log``; 0, or 2 with a sentence on standard error."""
    parser = argparse.ArgumentParser(
        prog="python app.py log",
        description="Log the program as a version in MLflow. The last line of the output is its URI.",
        parents=[argument_parser()] if {"-h", "--help"} & set(argv) else [],
        add_help=False,
        allow_abbrev=False,
    )
    group = parser.add_argument_group("Log")
    group.add_argument("--name", default=MODEL_NAME, help=f"name of the registered model [{MODEL_NAME}]")
    group.add_argument("--description", default="", help="what this version is")
    group.add_argument("--tag", action="append", default=[], metavar="KEY=VALUE", help="may be repeated")
    own, rest = parser.parse_known_args(list(argv))
    try:
        settings = Settings.load(rest, environ)
        if wrong := [text for text in own.tag if "=" not in text]:
            raise InvalidInput(f"--tag {wrong[0][:60]}: write it as KEY=VALUE, for example team=search.")
        prepare_libraries(settings, environ)
        logging.getLogger().setLevel(logging.ERROR)
        # What libraries print goes to standard error, so that a script can read the last line of the output.
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(sys.stderr):
            from dspy_demo.lm.choices import detect
            from dspy_demo.programs.registry import offered
            from dspy_demo.versions.store import VersionStore

            programs, choice = offered(settings), asyncio.run(detect(settings)).choice
            tags = dict(text.split("=", 1) for text in own.tag)
            request = LogRequest(own.name, programs.default.name, choice, own.description, tags)
            uri = VersionStore(settings, environ).log(request, programs, settings.adapter).uri
    except DemoError as error:
        print(error.public_message, file=sys.stderr)  # noqa: T201 - the command's own output
        return 2
    print(uri)  # noqa: T201 - the command's own output
    return 0
