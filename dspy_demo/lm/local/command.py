"""``python app.py models``: download, list and delete models of this machine."""

import argparse
import asyncio
import itertools
import sys
from collections.abc import Mapping, Sequence

from dspy_demo.errors import DemoError
from dspy_demo.lm.local import files
from dspy_demo.lm.local.download import download, size_text
from dspy_demo.lm.local.runtime import INSTALL_HINT, runtime_installed
from dspy_demo.settings import Settings


def models_command(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one of ``pull``, ``list`` and ``rm``, with any of the app's flags; the exit code of the process."""
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), argv))
    parser = argparse.ArgumentParser(
        prog="python app.py models",
        description="Models that run on this machine: download one or go on with it, list them, delete one.",
        epilog="Flags of the app may follow, such as --models-dir.",
    )
    parser.add_argument("action", choices=["pull", "list", "rm"])
    parser.add_argument("name", nargs="?", default="", help="as in the list [default for pull: the first]")
    own = parser.parse_args(words or ["--help"])
    try:
        settings = Settings.load(argv[len(words) :], environ)
        match own.action:
            case "pull":
                _pull(own.name or files.KNOWN[0].name, settings)
            case "list":
                _list(settings)
            case "rm":
                files.remove(settings.models_dir, own.name.removeprefix(files.PREFIX))
    except DemoError as error:
        _say(error.public_message)
        return 2
    except KeyboardInterrupt:
        _say("\nStopped. The same command goes on from here.")
        return 130
    return 0


def _pull(name: str, settings: Settings) -> None:
    model, tenths = files.downloadable(name.removeprefix(files.PREFIX)), set[int]()
    _say(f"{model.title}, {size_text(model.size_bytes)}, {model.licence}, from {model.repo}")

    def report(received_bytes: int) -> None:
        """A line every ten percent."""
        tenth = 10 * received_bytes // model.size_bytes
        if tenth not in tenths:
            tenths.add(tenth)
            _say(f"{tenth}0 %  {size_text(received_bytes)}")

    pulled = asyncio.run(download(model, settings, report))
    _say(f"It is in {pulled.path.parent}. Use it with: python app.py --lm {pulled.model}")
    if not runtime_installed():
        _say(INSTALL_HINT)


def _list(settings: Settings) -> None:
    known = [model for model in files.KNOWN if not model.package]
    rows = {files.PREFIX + model.name: (model.size_bytes, "not downloaded") for model in known}
    rows |= {model.model: (model.size_bytes, where) for model, where in files.offered(settings)}
    for name, (size_bytes, text) in rows.items():
        print(f"{name:{max(map(len, rows))}}  {size_text(size_bytes):8}  {text}")  # noqa: T201


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201
