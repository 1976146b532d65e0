"""The browser's main thread per token, in Chromium: our page beside `gr.ChatInterface`, chats short and long.

Chromium counts the time of its main thread's tasks itself (``Performance.getMetrics``), apart by script,
style and layout.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from contextlib import ExitStack
from typing import Any

from playwright.async_api import Browser, Page, Request, Route, async_playwright

from benchmarks.chats import GradioServer, chat_interface, our_page, past_turns
from benchmarks.page import TOKENS_PER_S
from benchmarks.report import Measured, Row, median
from benchmarks.servers import QUESTION
from benchmarks.upstream import Pace, Upstream, upstream
from dspy_demo.settings import Settings

CHROMIUM = "/usr/bin/chromium"
PARTS = ("TaskDuration", "ScriptDuration", "RecalcStyleDuration", "LayoutDuration")


async def measure(settings: Settings, *, quick: bool) -> Measured:
    lengths, seconds, rounds = ((10,), 1.0, 1) if quick else ((10, 500), 6.0, 2)
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    with upstream() as model, our_page(model) as ours, ExitStack() as running:
        peers = {length: running.enter_context(chat_interface(model, length)) for length in lengths}
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            for _ in range(rounds):
                for length in lengths:
                    for server in (ours, peers[length]):
                        spent = await _per_token_ms(browser, model, server, length, seconds)
                        found.setdefault((server.name, length), []).append(spent)
            await browser.close()
    main = {key: median([one["TaskDuration"] for one in spent]) for key, spent in found.items()}
    rows = [
        Row(
            f"browser's main thread per token, {length} messages before",
            "ms",
            main[ours.name, length],
            peers[length].name,
            main[peers[length].name, length],
            ratio_max=1.0,
        )
        for length in lengths
    ]
    if not quick:
        longest, shortest = main[ours.name, lengths[-1]], main[ours.name, lengths[0]]
        rows.append(Row("the same, 500 messages beside 10", "ms", longest, "10 messages", shortest, 1.2))
    return Measured(rows, {f"{name}, {length} messages": spent for (name, length), spent in found.items()})


async def _per_token_ms(
    browser: Browser, model: Upstream, server: GradioServer, length: int, seconds: float
) -> dict[str, float]:
    """Milliseconds of each part per token, while an answer streams."""
    model.pace(Pace(tokens=int((seconds + 30) * TOKENS_PER_S), per_second=TOKENS_PER_S))
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        page = await context.new_page()
        await (_open_ours if server.name == "ours" else _open_interface)(page, server, length)
        box = page.locator("#composer textarea" if server.name == "ours" else "textarea").first
        await box.fill(QUESTION)
        await box.press("Enter")
        await page.wait_for_function("/x[0-9]{6,}x/.test(document.body.innerText)", timeout=60_000)
        session = await context.new_cdp_session(page)
        await session.send("Performance.enable", {"timeDomain": "threadTicks"})
        before, started = await _metrics(session), time.monotonic()
        await asyncio.sleep(seconds)
        after = await _metrics(session)
        tokens = (time.monotonic() - started) * TOKENS_PER_S
        return {part: (after[part] - before[part]) / tokens * 1e3 for part in PARTS}
    finally:
        await context.close()


async def _metrics(session: Any) -> dict[str, float]:
    answer = await session.send("Performance.getMetrics")
    return {metric["name"]: metric["value"] for metric in answer["metrics"]}


async def _open_ours(page: Page, server: GradioServer, length: int) -> None:
    """The chat of before comes from the browser, as after a restart of the app."""
    past = json.dumps({"chat": secrets.token_urlsafe(32), "turns": past_turns(length)})

    async def restore(route: Route, request: Request) -> None:
        body = request.post_data_json
        if body["fn_index"] == server.event("load")["id"]:
            await route.continue_(post_data=json.dumps(body | {"data": [past]}))
        else:
            await route.continue_()

    await page.route(re.compile("/gradio_api/(run|queue/join)"), restore)
    await page.goto(server.url)
    await page.wait_for_function("document.body.innerText.includes('Something was answered')", timeout=60_000)


async def _open_interface(page: Page, server: GradioServer, length: int) -> None:
    await page.goto(server.url)
    await page.wait_for_function("document.body.innerText.includes('Something was answered')", timeout=60_000)
