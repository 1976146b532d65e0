"""``python app.py models``: download, list and delete models of this machine."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

from dspy_demo.errors import DemoError
from dspy_demo.lm.local_models import folder as files
from dspy_demo.lm.local_models.amounts import size_text
from dspy_demo.lm.local_models.download import download
from dspy_demo.lm.local_models.downloads import Downloads, DownloadState
from dspy_demo.lm.local_models.finding import offered
from dspy_demo.lm.local_models.known import KnownModel, known_model, known_models
from dspy_demo.lm.local_models.model import PREFIX
from dspy_demo.lm.local_models.progress_bar import ProgressBar
from dspy_demo.lm.local_models.runtime import INSTALL_HINT, runtime_installed
from dspy_demo.settings import Settings

INTERRUPTED = 130  # as shells say it: 128 and the number of SIGINT


def models_command(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one of ``pull``, ``list`` and ``rm``. What a script needs is on standard output.

    Args:
        argv: After the word ``models``: its own words and any of the app's flags.

    Returns:
        0; 2 with a sentence on standard error; 130 where it was interrupted.

    Raises:
        SystemExit: For ``--help`` and unknown flags, as argparse does.
    """
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), argv))
    own = _parser().parse_args(["--help"] if not argv or {"-h", "--help"} & set(argv) else words)
    try:
        settings = Settings.load(argv[len(words) :], environ)
        match own.action:
            case "pull":
                _pull(own.name or known_models()[0].name, settings)
            case "list":
                _list(settings, sys.stdout)
            case "rm":
                _remove(own.name, settings)
    except DemoError as error:
        print(error.public_message, file=sys.stderr)  # noqa: T201 - the command's own output
        return 2
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    return 0


def _pull(name: str, settings: Settings) -> None:
    model = known_model(name)
    _say(f"{model.title}, {size_text(model.size_bytes)}, {model.licence}, from {model.repo}")
    with ProgressBar(sys.stderr) as bar:
        pulled = asyncio.run(download(model, settings, bar.show))
    _say(f"It is in {pulled.path.parent}. Use it with: python app.py --lm {pulled.model}")
    if not runtime_installed():
        _say(INSTALL_HINT)
    print(pulled.model)  # noqa: T201


def _list(settings: Settings, out: TextIO) -> None:
    rows = [_row(state) for state in Downloads(settings).states()]
    named = {model.name for model in known_models()}
    others = [(model, where) for model, where in offered(settings) if model.name not in named]
    rows += [(model.model, size_text(model.size_bytes), where, model.licence) for model, where in others]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[3]]).rstrip(), file=out)


def _row(state: DownloadState) -> tuple[str, str, str, str]:
    words = {"here": "downloaded", "absent": "not downloaded", "running": "not downloaded"}
    partly = f"{state.progress.percent} % downloaded" if state.progress else ""
    model: KnownModel = state.model
    text = partly if state.phase == "partial" else words[state.phase]
    return (PREFIX + model.name, size_text(model.size_bytes), text, model.licence)


def _remove(name: str, settings: Settings) -> None:
    name = name.removeprefix(PREFIX)
    freed = files.remove(settings.models_dir, name)
    _say(f"{name} is deleted; {size_text(freed)} are free again.")


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    names = ", ".join(model.name for model in known_models())
    parser = argparse.ArgumentParser(
        prog="python app.py models",
        description="Models that run on this machine.",
        epilog="Flags of the app may follow, such as --models-dir; python app.py --help has all of them.",
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="pull | list | rm")
    pull = actions.add_parser("pull", help="download a model, or go on with it", allow_abbrev=False)
    pull.add_argument("name", nargs="?", help=f"one of {names} [default: the first]")
    actions.add_parser("list", help="show what can be downloaded and what is here", allow_abbrev=False)
    rm = actions.add_parser("rm", help="delete a downloaded model, or a part of one", allow_abbrev=False)
    rm.add_argument("name", help="as list shows it")
    return parser
