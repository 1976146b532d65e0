"""The command line: it starts the app, or one of its commands, and imports what that one needs only."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from dspy_demo.errors import DemoError
from dspy_demo.settings import PRIVATE_UMASK, Settings, close_to_others, prepare_libraries

#: Where the app listens without --port: on the first one that is free.
PORTS = range(7860, 7960)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the app, or one of its commands, until it is done or told to stop. Returns the exit code."""
    os.umask(PRIVATE_UMASK)
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["log"]:
        from dspy_demo.versions.command import log_command

        return log_command(arguments[1:], os.environ)
    if arguments[:1] == ["models"]:
        from dspy_demo.lm.local.command import models_command

        return models_command(arguments[1:], os.environ)
    try:
        settings = Settings.load(arguments, os.environ)
        prepare_libraries(settings, os.environ)
        run(settings)
    except DemoError as error:
        print(error.public_message, file=sys.stderr)
        return 2
    return 0


def run(settings: Settings) -> None:
    """Start the services and the page, and serve them until SIGINT or SIGTERM."""
    gc.disable()  # importing makes no garbage; the services enable it again
    from dspy_demo.lm.choices import detect
    from dspy_demo.logs import configure_logging
    from dspy_demo.processes import listen
    from dspy_demo.programs.registry import offered
    from dspy_demo.web.server import on_stop_signal

    configure_logging(settings)
    close_to_others(settings.data_dir)
    on_stop_signal(lambda: sys.exit(0))  # until the server has taken the signals over
    listening = listen(settings.host, [settings.port] if settings.port else PORTS)
    # Importing dspy and gradio takes seconds; look for models meanwhile.
    with ThreadPoolExecutor(1) as thread:
        detecting = thread.submit(lambda: asyncio.run(detect(settings)))
        programs = offered(settings)
        from dspy_demo.composition import serve

        detection = detecting.result()
    serve(settings, programs, detection, listening)
