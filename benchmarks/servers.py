"""Who is measured: our app, and each peer in its best honest configuration."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from benchmarks.processes import Process, free_port
from benchmarks.upstream import Upstream
from benchmarks.venvs import python_with

QUESTION = "What is the answer?"

Serving = TypeVar("Serving")


@dataclass(frozen=True)
class Peer:
    """A server that streams an answer to one POST.

    Attributes:
        about: Its configuration, for the reader of the figures.
        command: What Python runs; ``--port`` and ``--upstream`` are added.
        requirements: Of a virtual environment of its own.
    """

    name: str
    about: str
    command: tuple[str, ...]
    path: str = "/predict/stream"
    body: Mapping[str, Any] = field(default_factory=lambda: {"text": QUESTION})
    ready_path: str = "/"
    requirements: tuple[str, ...] = ()


def _module(name: str, *more: str) -> tuple[str, ...]:
    return ("-m", f"benchmarks.peers.{name}", *more)


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "relay",
            "Starlette and httpx pass the upstream's events on, line by line, without looking into them",
            _module("relay"),
        ),
        Peer(
            "relay of bytes",
            "the same, whatever arrives in one piece passed on in one piece",
            _module("relay", "--bytes"),
        ),
        Peer("engine", "DSPy's native engine (lm15) behind a route, no program", _module("engine")),
        Peer(
            "litellm", "litellm.acompletion(stream=True) behind a route, no program", _module("litellm_app")
        ),
        Peer(
            "tutorial",
            "the FastAPI app of DSPy's deployment tutorial, repaired only so that it runs "
            "(native engine, its own async_max_workers=4, cache off)",
            _module("tutorial"),
        ),
        Peer(
            "listeners",
            "streamify with a StreamListener a field, in the event loop, native engine, history off",
            _module("listeners"),
        ),
        Peer(
            "listeners, threads",
            "the same with the program in threads, as asyncify runs it, 300 of them",
            _module("listeners", "--threads"),
        ),
        Peer(
            "streamify",
            "streamify without listeners, in the event loop, our splitters on its chunks",
            _module("streamified"),
        ),
        Peer(
            "AgentServer",
            "MLflow's AgentServer with an async stream function over streamify, tracing off",
            _module("agent_server"),
            path="/invocations",
            body={"stream": True, "text": QUESTION},
            ready_path="/health",
        ),
        Peer(
            "LitServe",
            "an async streaming LitAPI over streamify, one worker, max_batch_size 1",
            _module("lit_serve"),
            path="/predict",
            ready_path="/health",
            requirements=("litserve==0.2.19",),
        ),
    )
}


@contextmanager
def our_app(upstream: Upstream, *flags: str, ready_path: str = "/health") -> Iterator[Process]:
    """``python app.py`` on its defaults, with the upstream as its model; cache and tracing are off."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="benchmark-data-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "app.py", "--port", str(port), "--no-open", "--data-dir", folder]
        command += ["--no-cache", "--no-tracing", "--lm", "openai/fake", "--api-base", upstream.url, *flags]
        with Process(command, port) as process:
            process.wait_until_answers(ready_path)
            yield process


@dataclass(frozen=True)
class Running:
    """A server under measurement."""

    name: str
    process: Process
    url: str
    body: Mapping[str, Any]


@contextmanager
def peer(name: str, upstream: Upstream) -> Iterator[Running]:
    """A peer, or ``ours``."""
    if name == "ours":
        with our_app(upstream) as process:
            yield Running(name, process, f"{process.url}/predict/stream", {"text": QUESTION})
        return
    found, port = PEERS[name], free_port()
    python = python_with(found.name.lower(), found.requirements)
    command = [python, *found.command, "--port", str(port), "--upstream", upstream.url]
    with Process(command, port) as process:
        process.wait_until_answers(found.ready_path)
        yield Running(name, process, process.url + found.path, found.body)


@contextmanager
def all_running(names: tuple[str, ...], upstream: Upstream) -> Iterator[list[Running]]:
    """Several at once, so that rounds can alternate between them. A peer that does not start is left out."""
    with ExitStack() as running:
        servers = []
        for name in names:
            if name == "ours":
                servers.append(running.enter_context(peer(name, upstream)))
            else:
                servers += started(running, name, peer(name, upstream))
        yield servers


def started(running: ExitStack, name: str, server: AbstractContextManager[Serving]) -> list[Serving]:
    """The server, which ends with the stack; none where it cannot be installed or does not start."""
    try:
        return [running.enter_context(server)]
    except (RuntimeError, subprocess.CalledProcessError) as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return []
