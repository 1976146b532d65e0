"""Visitors ask, stop and hang up while the model fails now and then: is anything left when they are gone?

python -m benchmarks soak            # 5 minutes of load
python -m benchmarks soak --quick    # 2 seconds without silent faults, as the tests run it
"""

import asyncio
import contextlib
import random
import time
from pathlib import Path

import httpx

from benchmarks.houses import houses
from benchmarks.page import Page, Tab
from benchmarks.processes import Process
from benchmarks.report import Row
from benchmarks.upstream import Upstream
from tests.fake_openai import FAULTS, FakeOpenAI, Reply

PAGE_VISITORS, HTTP_VISITORS = 20, 10
#: Idle connections stay for 20 s, and a page that was closed is noticed within 15 s.
SETTLE_S = 30.0


async def measure(before: Path | None, folder: Path, *, quick: bool) -> list[Row]:
    warm_up_s, seconds, longest = (0.5, 1.5, 200) if quick else (120.0, 300.0, 1_500)
    many = (4, 2) if quick else (PAGE_VISITORS, HTTP_VISITORS)
    faults = [name for name in FAULTS if not (quick and name.startswith(("silent", "stall")))]

    def reply(_: object) -> Reply:
        if chance.random() < 0.15:
            return FAULTS[chance.choice(faults)]
        return Reply(filler_chars=chance.randrange(100, longest), tokens_per_second=100)

    chance = random.Random(1)
    with FakeOpenAI() as fake, houses(None)[0].app(Upstream(url=fake.url)) as app:
        fake.respond_with(reply)
        page = Page("ours", app)
        await _load(page, chance, warm_up_s, many)  # caches, pools and kept sessions are full then
        await _quiet(fake)
        first = _figures(app)
        await _load(page, chance, seconds, many)
        await _quiet(fake)
        last = _figures(app)
    rows = [
        Row(f"soak: {name}, at the end", unit, last[name], "after the warm-up", first[name], ratio_max=limit)
        for name, unit, limit in (
            ("memory", "MB", 1.2),
            ("open descriptors", "", 1.5),
            ("processes", "", 1.0),
        )
    ]
    return [*rows, Row("soak: upstream streams left", "", fake.active_streams, most=0)]


def _figures(app: Process) -> dict[str, float]:
    descriptors = len(list(Path(f"/proc/{app.pids[0]}/fd").iterdir()))
    return {"memory": app.memory_mb, "open descriptors": descriptors, "processes": len(app.pids)}


async def _quiet(fake: FakeOpenAI) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_S):
            while fake.active_streams:
                await asyncio.sleep(0.1)
    await asyncio.sleep(1.0)


async def _load(page: Page, chance: random.Random, seconds: float, many: tuple[int, int]) -> None:
    until = time.monotonic() + seconds
    visitors = [_page_visitor(page, random.Random(chance.random()), until) for _ in range(many[0])]
    clients = [_http_visitor(page, random.Random(chance.random()), until) for _ in range(many[1])]
    await asyncio.gather(*visitors, *clients)


async def _page_visitor(page: Page, chance: random.Random, until: float) -> None:
    """Opens the page, asks, and stops, leaves in the middle, or stays to the end."""
    while time.monotonic() < until:
        tab = Tab(page)
        try:
            await tab.open()
            for _ in range(chance.randrange(1, 4)):
                await tab.ask("What is 2 + 2?")
                await asyncio.sleep(chance.uniform(0.05, 1.0))
                if chance.random() < 0.4:
                    await tab.run(page.event("composer", "stop"))
            if chance.random() < 0.5:
                await tab.run(page.event("new-chat", "click"))
        finally:
            tab.close()


async def _http_visitor(page: Page, chance: random.Random, until: float) -> None:
    """Calls the routes, and hangs up in the middle now and then."""
    while time.monotonic() < until:
        path = chance.choice(("/predict/stream", "/predict"))
        with contextlib.suppress(TimeoutError, httpx.RemoteProtocolError):
            async with asyncio.timeout(chance.uniform(0.05, 0.6) if chance.random() < 0.3 else 60):
                await page.client.post(path, json={"text": "What is 2 + 2?"})
