"""30 visitors for some minutes: does anything grow, and is anything left when they are gone?

    python -m benchmarks soak                # 7 minutes of load
    python -m benchmarks soak --quick        # 11 seconds, as the tests run it

The app, a model server with a logged version and the fake upstream are real processes and sockets. Visitors
of the page (by its own protocol) and of the routes ask local and served, stop, reload and hang up, and the
upstream fails now and then. The first part of the load fills caches, pools and the number of sessions that
are kept; beside each figure at the end stands the same figure after that part.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.page_visitor import PageVisitor
from benchmarks.report import Measured, Row
from dspy_demo.events import LMChoice
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from dspy_demo.versions import LogRequest, VersionStore
from tests.fake_openai import FAULTS, FakeOpenAI, Reply, free_port

PAGE_VISITORS, HTTP_VISITORS = 20, 10


@dataclass(frozen=True)
class Length:
    """Seconds of each part.

    Attributes:
        settle_s: Idle connections stay for 20 s, and the heartbeat of a page that was closed sleeps for up to
            15 s (gradio 6.31).
    """

    warm_up_s: float
    load_s: float
    settle_s: float


FULL, QUICK = Length(120.0, 300.0, 30.0), Length(3.0, 8.0, 1.0)
SAMPLE_S = 0.5
#: Turns that were hung up on are noticed within a heartbeat of the server.
NOTICED_S = 30.0
START_DEADLINE_S, STOP_DEADLINE_S = 400.0, 60.0
TOKENS_PER_S = 100.0
FAULT_SHARE = 0.15


async def measure(settings: Settings, *, quick: bool) -> Measured:
    length = QUICK if quick else FULL
    with FakeOpenAI(tokens_per_second=TOKENS_PER_S) as fake:
        choice = LMChoice("openai/fake", fake.url, cache=False)
        logging = LogRequest("soak", "chain_of_thought", choice)
        version = await asyncio.to_thread(VersionStore(settings).log, logging, ProgramRegistry(SHIPPED))
        async with _processes(settings.data_dir, version.uri, fake) as watched:
            found = await _soak(watched, fake, length)
    rows = [
        Row(
            f"soak: {title} of the {name}, at the end beside after the warm-up",
            unit,
            found["after"][name][key],
            "after the warm-up",
            found["before"][name][key],
            ratio_max=None if quick else 1.1,
        )
        for key, title, unit in (("rss_mb", "memory", "MB"), ("descriptors", "open descriptors", ""))
        for name in ("app", "server")
    ]
    left = Row("soak: upstream streams left", "", found["upstream_streams_left"], most=0)
    return Measured([*rows, left], found)


class Watched:
    """A process under load, seen from outside by /proc."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url
        self.rss_mb: list[tuple[float, float]] = []
        self.open: list[tuple[float, float]] = []

    @property
    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    @property
    def children(self) -> int:
        return len(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split())

    def sample(self) -> None:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        now = time.monotonic()
        self.rss_mb.append((now, int(status.partition("VmRSS:")[2].split()[0]) / 1024))
        self.open.append((now, self.descriptors))

    def slope_mb_per_min(self, since: float) -> float:
        """Of the straight line through the samples since then."""
        points = [(at / 60, size) for at, size in self.rss_mb if at >= since]
        middle = sum(at for at, _ in points) / len(points), sum(size for _, size in points) / len(points)
        spread = sum((at - middle[0]) ** 2 for at, _ in points)
        return sum((at - middle[0]) * (size - middle[1]) for at, size in points) / spread

    def figures(self) -> dict[str, Any]:
        self.sample()
        return {
            "rss_mb": round(self.rss_mb[-1][1], 1),
            "descriptors": self.descriptors,
            "children": self.children,
        }


class WatchedApp(Watched):
    """`benchmarks.watched_app`, which tells its tasks and objects too."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, file: Path) -> None:
        super().__init__(process, url)
        self._file = file

    async def inner(self) -> dict[str, Any]:
        self._file.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        await _until(self._file.exists, 30)
        inner: dict[str, Any] = json.loads(self._file.read_text())
        return inner


@contextlib.asynccontextmanager
async def _processes(
    data_dir: Path, version: str, fake: FakeOpenAI
) -> AsyncIterator[tuple[WatchedApp, Watched]]:
    """The app, and a model server with `version`, both ready."""
    file = data_dir / "figures.json"
    shared = {"DSPY_DEMO_LM_RETRIES": "0", "DSPY_DEMO_IDLE_TIMEOUT_S": "8", "PYTHONUNBUFFERED": "1"}
    server_port, app_port = free_port(), free_port()
    server_url, app_url = f"http://127.0.0.1:{server_port}", f"http://127.0.0.1:{app_port}"
    folder = ("--data-dir", str(data_dir))
    server = ("dspy_demo.serving", version, "--port", str(server_port))
    page = ("benchmarks.watched_app", str(file), "--port", str(app_port), "--no-open", "--no-cache")
    model = ("--lm", "openai/fake", "--api-base", fake.url, "--served-url", server_url)
    async with (
        _running(*server, *folder, env=shared, says=b"Serving ", log=data_dir / "server.log") as model_server,
        _running(*page, *model, *folder, env=shared, says=b"Ready: ", log=data_dir / "app.log") as app,
    ):
        yield WatchedApp(app, app_url, file), Watched(model_server, server_url)


@contextlib.asynccontextmanager
async def _running(
    *module: str, env: dict[str, str], says: bytes, log: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that is ready when it `says` so; ended at the end, which it must not have done before."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *module, env={**os.environ, **env}, stdout=output, stderr=output
        )
    try:
        await _until(lambda: says in log.read_bytes() or process.returncode is not None, START_DEADLINE_S)
        if process.returncode is None:
            yield process
    except Exception as error:
        error.add_note(f"What {module[0]} said last:\n{log.read_text()[-4000:]}")
        raise
    finally:
        if process.returncode is not None:
            raise RuntimeError(f"{module[0]} ended with {process.returncode}:\n{log.read_text()[-4000:]}")
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_DEADLINE_S)
        except TimeoutError:
            process.kill()
            raise


async def _soak(watched: tuple[WatchedApp, Watched], fake: FakeOpenAI, length: Length) -> dict[str, Any]:
    app, server = watched
    chance = random.Random(7)
    fake.respond_with(lambda _: _reply(chance))
    done: Counter[str] = Counter()
    await _load(app, server, chance, length.warm_up_s, Counter())
    await _quiet(fake, length)
    before, inner_before = _figures(app, server), await app.inner()
    begun, calls = time.monotonic(), len(fake.streams)
    sampling = asyncio.create_task(_sample(app, server))
    await _load(app, server, chance, length.load_s, done)
    sampling.cancel()
    slopes = {"app": app.slope_mb_per_min(begun), "server": server.slope_mb_per_min(begun)}
    await _quiet(fake, length)
    after, inner_after = _figures(app, server), await app.inner()
    return {
        "load_s": length.load_s,
        "visitors": PAGE_VISITORS + HTTP_VISITORS,
        "upstream_calls": len(fake.streams) - calls,
        "streams_at_once": _Peak(fake).streams,
        "what_visitors_did": dict(sorted(done.items())),
        "slope_mb_per_min": {name: round(value, 2) for name, value in slopes.items()},
        "every_10_s": {
            "app_mb": _course(app.rss_mb, begun),
            "server_mb": _course(server.rss_mb, begun),
            "app_descriptors": _course(app.open, begun),
        },
        "before": before,
        "after": after,
        "upstream_streams_left": fake.active_streams,
        "tasks": {"before": inner_before["tasks"], "after": inner_after["tasks"]},
        "objects": {"before": inner_before["objects"], "after": inner_after["objects"]},
        "grown": _grown(inner_before["kinds"], inner_after["kinds"]),
    }


def _course(samples: list[tuple[float, float]], since: float) -> list[float]:
    """One in ten seconds of them."""
    return [round(value, 1) for at, value in samples if at >= since][:: round(10 / SAMPLE_S)]


class _Peak:
    """How many streams were open at the same time."""

    def __init__(self, fake: FakeOpenAI) -> None:
        moments = [(s.request.received_at, 1) for s in fake.streams]
        moments += [(s.closed_at, -1) for s in fake.streams if s.closed_at]
        self.streams = open_now = 0
        for _, change in sorted(moments):
            open_now += change
            self.streams = max(self.streams, open_now)


def _reply(chance: random.Random) -> Reply:
    if chance.random() < FAULT_SHARE:
        return FAULTS[chance.choice(list(FAULTS))]
    return Reply(filler_chars=chance.randrange(100, 1_500))


def _figures(*watched: Watched) -> dict[str, Any]:
    return {name: process.figures() for name, process in zip(("app", "server"), watched, strict=True)}


def _grown(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """The kinds of objects of which there are many more."""
    grown = {kind: count - before.get(kind, 0) for kind, count in after.items()}
    return {kind: more for kind, more in sorted(grown.items(), key=lambda item: -item[1]) if more > 1_000}


async def _sample(*watched: Watched) -> None:
    while True:
        for process in watched:
            process.sample()
        await asyncio.sleep(SAMPLE_S)


async def _quiet(fake: FakeOpenAI, length: Length) -> None:
    """Wait until nobody is being answered; what is open after the deadline is in the figures."""
    with contextlib.suppress(TimeoutError):
        await _until(lambda: fake.active_streams == 0, NOTICED_S)
    await asyncio.sleep(length.settle_s)


async def _until(condition: Callable[[], bool], timeout_s: float) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.05)


# --- the visitors ---


async def _load(
    app: Watched, server: Watched, chance: random.Random, seconds: float, done: Counter[str]
) -> None:
    until, limits = time.monotonic() + seconds, httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=app.url, timeout=60, limits=limits, trust_env=False) as client:
        visitors = [
            _page_visitor(client, random.Random(chance.random()), until, done) for _ in range(PAGE_VISITORS)
        ]
        clients = [
            _http_visitor(client, server.url, random.Random(chance.random()), until, done)
            for _ in range(HTTP_VISITORS)
        ]
        await asyncio.gather(*visitors, *clients)


async def _page_visitor(
    client: httpx.AsyncClient, chance: random.Random, until: float, done: Counter[str]
) -> None:
    """Opens the page, asks, and goes in all the ways in which visitors go."""
    saved = None
    while time.monotonic() < until:
        tab = await PageVisitor.open(client, saved)
        done["tabs"] += 1
        try:
            for _ in range(chance.randrange(1, 5)):
                if time.monotonic() > until:
                    break
                await _page_turn(tab, chance, done)
            if chance.random() < 0.5:
                await tab.new_chat()
        finally:
            await tab.close()
        saved = tab.saved if chance.random() < 0.7 else None  # a reload, or somebody else


async def _page_turn(tab: PageVisitor, chance: random.Random, done: Counter[str]) -> None:
    backend = chance.choice(["Local", "Served"])
    done[backend.lower()] += 1
    way, pause_s = chance.random(), chance.uniform(0.05, 0.6)
    if way < 0.5:
        await tab.ask("What is 2 + 2?", backend=backend)
        return
    asking = asyncio.create_task(
        tab.ask("What is 3 + 3?", backend=backend, leave_after_s=pause_s if way > 0.8 else None)
    )
    await asyncio.sleep(pause_s)
    if way < 0.65:
        done["stopped"] += 1
        await tab.stop()
    elif way < 0.8:
        done["reloaded"] += 1
        await tab.close()  # in the middle of the answer
        asking.cancel()
    else:
        done["hung up"] += 1
    await asyncio.wait({asking})
    if not asking.cancelled():
        asking.result()


async def _http_visitor(
    client: httpx.AsyncClient, server_url: str, chance: random.Random, until: float, done: Counter[str]
) -> None:
    """Calls the routes of the app and of the model server; hangs up in the middle now and then."""
    while time.monotonic() < until:
        base = chance.choice(["", server_url])
        path, body = chance.choice(
            [
                ("/predict/stream", {"text": "What is 2 + 2?"}),
                ("/predict", {"text": "What is 2 + 2?"}),
                ("/v1/chat/completions", {"stream": True, "model": "chain_of_thought", "messages": [_ASK]}),
            ]
        )
        done[path] += 1
        leave_after_s = chance.uniform(0.05, 0.6) if chance.random() < 0.3 else 60.0
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout(leave_after_s),
                client.stream("POST", f"{base}{path}", json=body) as reply,
            ):
                done[f"status {reply.status_code}"] += 1
                async for _ in reply.aiter_raw():
                    pass


_ASK = {"role": "user", "content": "What is 2 + 2?"}
