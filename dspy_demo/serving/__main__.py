"""``python -m dspy_demo.serving models:/NAME@champion --port 5001``: serve one version."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import socket
import sys
from functools import partial

from dspy_demo.errors import DemoError
from dspy_demo.processes import listen
from dspy_demo.serving import CANNOT_SERVE, INSTANCE_VARIABLE
from dspy_demo.settings import PRIVATE_UMASK, Settings, prepare_libraries


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m dspy_demo.serving",
        description="Serve a version that was logged to MLflow: its /invocations, and streaming routes.",
        epilog="The environment gives the language model's key (OPENAI_API_KEY) and the limits of the app "
        "(DSPY_DEMO_TOTAL_TIMEOUT_S). Beyond this machine clients are known by --allow-host, or by the "
        "bearer token in DSPY_DEMO_OWNER_TOKEN.",
    )
    add = parser.add_argument
    add("version", metavar="VERSION", help="models:/NAME/VERSION or models:/NAME@ALIAS")
    add("--host", default="127.0.0.1", help="address to listen on [%(default)s]")
    add("--port", type=int, default=5001, help="port to listen on [%(default)s]")
    add("--fd", type=int, help="listen on this open socket instead; used by the app")
    names = "a name that the server is asked by, beside this machine's own; may be repeated"
    add("--allow-host", action="append", default=[], metavar="NAME", help=names)
    add("--tracking-uri", help="MLflow server or database [the one in --data-dir]")
    add("--data-dir", help="the app's data folder")
    return parser.parse_args()


def main() -> int:
    """Serve until SIGINT or SIGTERM. Returns the exit code, with the reason as the last line on stderr."""
    os.umask(PRIVATE_UMASK)
    options = arguments()
    given = {"--tracking-uri": options.tracking_uri, "--data-dir": options.data_dir}
    try:
        settings = Settings.load([f"{flag}={value}" for flag, value in given.items() if value], os.environ)
        inherited = socket.socket(fileno=options.fd) if options.fd is not None else None
        serve(options, settings, inherited or listen(options.host, [options.port]))
    except DemoError as error:
        sys.stderr.write(error.public_message + "\n")
        return CANNOT_SERVE
    return 0


def serve(options: argparse.Namespace, settings: Settings, listening: socket.socket) -> None:
    prepare_libraries(settings, os.environ)

    # Only now: these imports take seconds, and libraries read the environment while they are imported.
    from dspy_demo.backends.served_wire import identity_headers
    from dspy_demo.logs import configure_logging
    from dspy_demo.serving.app import build_app
    from dspy_demo.serving.loading import load
    from dspy_demo.web.middleware import ModelServerMiddleware
    from dspy_demo.web.server import on_stop_signal, serve_app

    on_stop_signal(lambda: os._exit(0))  # until the server has taken the signals over
    configure_logging(settings)
    version = load(options.version, settings)
    app = build_app(version, settings)
    host, port = listening.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def tell_ready() -> None:
        gc.freeze()  # a full collection of garbage need not look through the libraries
        print(f"Serving {version.uri} at {address}", flush=True)  # noqa: T201 - for who started it

    guarded = ModelServerMiddleware(app, host=host, allowed=options.allow_host, token=settings.owner_token)
    headers = identity_headers(version.uri, os.environ.get(INSTANCE_VARIABLE, ""))
    drain = partial(app.state.service.drain, settings.shutdown_grace_s)
    asyncio.run(serve_app(guarded, listening, settings, on_ready=tell_ready, drain=drain, headers=headers))


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # taking the libraries apart would need another 1.5 s
