"""``python -m dspy_demo.serving models:/NAME@champion --port 5001``: serve one version."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

from dspy_demo import collector
from dspy_demo.errors import DemoError, SettingsError
from dspy_demo.processes import listen
from dspy_demo.serving.handshake import CANNOT_SERVE, WRONG_USAGE
from dspy_demo.settings import PRIVATE_UMASK, Settings, prepare_libraries

#: Seconds after those of the settings in which clients read the last event of their turns.
LAST_WORDS_S = 1


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m dspy_demo.serving",
        description="Serve a version that was logged to MLflow: its /invocations, and streaming routes.",
        epilog="The key of the language model comes from the environment, for example OPENAI_API_KEY. "
        "Limits are set by the variables of the app, for example DSPY_DEMO_TOTAL_TIMEOUT_S. Beyond this "
        "machine clients are known by --allow-host, or by the bearer token in DSPY_DEMO_OWNER_TOKEN.",
    )
    parser.add_argument("version", metavar="VERSION", help="models:/NAME/VERSION or models:/NAME@ALIAS")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on [%(default)s]")
    parser.add_argument("--port", type=int, default=5001, help="port to listen on [%(default)s]")
    parser.add_argument("--fd", type=int, help="listen on this open socket instead; used by the app")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that the server is asked by, beside this machine's own; may be given more than once",
    )
    parser.add_argument("--tracking-uri", help="MLflow server or database [the one in --data-dir]")
    parser.add_argument("--data-dir", type=Path, help="the app's data folder")
    return parser.parse_args(argv)


def main() -> int:
    os.umask(PRIVATE_UMASK)
    options = arguments(sys.argv[1:])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    try:
        settings = _settings(options)
        given = socket.socket(fileno=options.fd) if options.fd is not None else None
        listening = given or listen(options.host, [options.port])
        host, port = listening.getsockname()[:2]
    except SettingsError as error:
        return _give_up(error.public_message, WRONG_USAGE)
    collector.pause()
    prepare_libraries(settings, os.environ)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")

    # Only now: these imports take seconds, and libraries read the environment while they are imported.
    import uvicorn

    from dspy_demo.logs import configure_logging
    from dspy_demo.serving.guard import Guard
    from dspy_demo.serving.served_version import load
    from dspy_demo.serving.server import build_app
    from dspy_demo.web.connection import IDLE_S, bounded_protocol

    configure_logging(settings)
    try:
        version = load(options.version, settings)
        app = build_app(version, settings, asked_as=options.version)
        guarded = Guard(app, host=host, allowed=options.allow_host, token=settings.owner_token)
    except SettingsError as error:
        return _give_up(error.public_message, WRONG_USAGE)
    except DemoError as error:
        return _give_up(error.public_message, CANNOT_SERVE)
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            collector.keep_what_is_loaded()
            _say(f"Serving {version.uri} at {address}")

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """Beside uvicorn's waiting for open connections, end the turns behind them in time."""
            draining = asyncio.create_task(app.state.service.drain(settings.shutdown_grace_s), name="drain")
            await super().shutdown(sockets)
            await draining

    config = uvicorn.Config(
        guarded,
        log_config=None,
        access_log=False,
        ws="none",
        timeout_graceful_shutdown=math.ceil(settings.shutdown_grace_s) + LAST_WORDS_S,
        http=bounded_protocol(settings),
        timeout_keep_alive=IDLE_S,
    )
    with contextlib.suppress(SystemExit):  # of `_leave`
        asyncio.run(Server(config).serve([listening]))
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    given = {"--tracking-uri": options.tracking_uri, "--data-dir": options.data_dir}
    return Settings.load(
        [text for flag, value in given.items() if value for text in (flag, str(value))], os.environ
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _give_up(sentence: str, code: int) -> int:
    sys.stderr.write(sentence + "\n")
    return code


def _leave(number: int, frame: object) -> NoReturn:
    """Uvicorn (0.51) ends gracefully, then raises the signal again; asked to end, ending is no failure."""
    raise SystemExit(0)


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # All is closed by now. Taking the libraries apart would need another 1.5 s (Python 3.11).
    os._exit(exit_code)
