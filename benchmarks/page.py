"""The chat page: CPU per token, 100 answers at once. It is opened by Gradio's protocol, without a browser.

Which event is which follows from ``/config``: a question is what the composer submits, and its answer is
drawn by the event that the page asks for when it is told that a turn runs, or that follows the question's.
"""

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.houses import QUESTION, houses, peer
from benchmarks.load import Heard, send
from benchmarks.processes import Process
from benchmarks.report import Row, quantile
from benchmarks.upstream import Pace, Upstream, upstream

TOKENS_PER_S = 20.0
API = "/gradio_api"


class Page:
    """A Gradio app with a chat, and its events as its frontend is told them."""

    def __init__(self, name: str, process: Process) -> None:
        self.name, self.process = name, process
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        self.client = httpx.AsyncClient(base_url=process.url, timeout=120, trust_env=False, limits=limits)
        config = httpx.get(f"{process.url}/config", trust_env=False).json()
        self.components = {component["id"]: component for component in config["components"]}
        # Others happen within the browser alone.
        self.events = [event for event in config["dependencies"] if event["backend_fn"]]

    def event(self, elem_id: str, kind: str) -> dict[str, Any]:
        """What happens when a component is used; `kind` is Gradio's name of it, such as ``submit``."""
        return next(event for event in self.events if [self._component(elem_id), kind] in event["targets"])

    def drawing(self, question: dict[str, Any]) -> dict[str, Any]:
        """The event that draws the answer: the page's own code asks for it, or it follows the question's."""
        asked_for = [self._component("saved-chat"), "play"]
        return next(
            event
            for event in self.events
            if asked_for in event["targets"] or event["trigger_after"] == question["id"]
        )

    def _component(self, elem_id: str) -> int | None:
        components = self.components.items()
        return next((key for key, one in components if one["props"].get("elem_id") == elem_id), None)

    def named(self, name: str) -> dict[str, Any]:
        """The event whose handler is called so."""
        return next(event for event in self.events if event["api_name"] == name)

    def loads(self) -> list[dict[str, Any]]:
        return [event for event in self.events if any(target[1] == "load" for target in event["targets"])]

    def data(self, event: dict[str, Any], given: dict[str, Any]) -> list[Any]:
        """An event's inputs, as the page was drawn but for those that are given by elem_id or label."""
        data = []
        for props in (self.components[key]["props"] for key in event["inputs"]):
            name = props.get("elem_id") if props.get("elem_id") in given else props.get("label")
            data.append(given.get(name, None if "storage_key" in props else props.get("value")))
        return data


@dataclass
class Tab:
    """One open page: it says that it is there by one stream, its updates come by another."""

    page: Page
    session: str = field(default_factory=lambda: secrets.token_hex(6))
    heard: Heard = field(default_factory=Heard)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def open(self) -> None:
        await self._listen(f"heartbeat/{self.session}")
        for event in self.page.loads():
            await self.run(event)

    async def ask(self, question: str = QUESTION, **given: Any) -> None:
        """Send a question; the answer's tokens arrive in `heard`."""
        if self.page.name == "gr.ChatInterface":
            await self.run(self.page.named("_clear_and_save_textbox"), data=[question])
            append, draw = self.page.named("_append_message_to_history"), self.page.named("_submit_fn")
            await self.run(append)
        else:
            submit = self.page.event("composer", "submit")
            await self.run(submit, {"composer": question, **given})
            draw = self.page.drawing(submit)
        body = self._body(draw, self.page.data(draw, {}))
        (await self.page.client.post(f"{API}/queue/join", json=body)).raise_for_status()
        self.heard = await self._listen(f"queue/data?session_hash={self.session}")
        self._tasks.append(asyncio.create_task(self._settle(draw, self._tasks[-1])))

    async def run(
        self, event: dict[str, Any], given: dict[str, Any] | None = None, data: list[Any] | None = None
    ) -> bytes:
        """An event that is answered at once."""
        body = self._body(event, data or self.page.data(event, given or {}))
        return (await self.page.client.post(f"{API}/run/predict", json=body)).raise_for_status().content

    async def _settle(self, draw: dict[str, Any], drawing: asyncio.Task[None]) -> None:
        """What follows the drawing tells the answer's end."""
        await drawing
        for event in self.page.events:
            if event["trigger_after"] == draw["id"]:
                self.heard.hear(await self.run(event))

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _body(self, event: dict[str, Any], data: list[Any]) -> dict[str, Any]:
        return {"data": data, "fn_index": event["id"], "session_hash": self.session, "trigger_id": 0}

    async def _listen(self, path: str) -> Heard:
        heard, reading = await send(f"{self.page.process.url}{API}/{path}")
        self._tasks.append(reading)
        return heard


@contextmanager
def pages(before: Path | None, model: Upstream, *, peers: bool) -> Iterator[list[Page]]:
    with ExitStack() as running:
        found = [Page(house.name, running.enter_context(house.app(model))) for house in houses(before)]
        if peers:
            process = running.enter_context(peer("chat_interface", "--upstream", model.url))
            found.append(Page("gr.ChatInterface", process))
        yield found


async def measure(before: Path | None, folder: Path, *, quick: bool) -> list[Row]:
    chats, seconds, rounds = (1, 0.5, 1) if quick else (10, 6.0, 3)
    many, tokens = (2, 20) if quick else (100, 600)
    cpu_ms: dict[str, list[float]] = {}
    live: dict[str, list[Live]] = {}
    with upstream() as model, pages(before, model, peers=True) as found:
        for _ in range(rounds):
            for page in found:
                cpu_ms.setdefault(page.name, []).append(await _cpu_per_token_ms(model, page, chats, seconds))
        for _ in range(rounds):
            for page in found[:-1]:
                live.setdefault(page.name, []).append(await _live(model, page, many, tokens))
    title = f"{many} live chats of {TOKENS_PER_S:g} tokens/s"
    middle = {name: sorted(runs, key=lambda run: run.p95_ms)[len(runs) // 2] for name, runs in live.items()}
    rows = Row.beside(
        "CPU per token through the page", "ms", {n: min(ms) for n, ms in cpu_ms.items()}, {"before": 1.5}
    )
    rows += Row.beside(
        f"age of a token, p95, {title}", "ms", {n: r.p95_ms for n, r in middle.items()}, {"before": 3}
    )
    rows.append(Row(f"tokens lost, {title}", "", max(run.lost for run in live["ours"]), most=0))
    rows.append(Row(f"age in the last third beside the first, {title}", "×", middle["ours"].growth, most=2))
    return rows


async def _cpu_per_token_ms(model: Upstream, page: Page, chats: int, seconds: float) -> float:
    """While all the chats are streaming: neither their begin nor their end is in it."""
    model.pace(Pace(tokens=int((seconds + 60) * TOKENS_PER_S), per_second=TOKENS_PER_S))
    tabs = [Tab(page) for _ in range(chats)]
    try:
        for tab in tabs:
            await tab.open()
        await asyncio.gather(*(tab.ask() for tab in tabs))
        async with asyncio.timeout(60):
            while not all(tab.heard.tokens > 2 for tab in tabs):
                await asyncio.sleep(0.05)
        before_s, before = page.process.cpu_s, sum(tab.heard.tokens for tab in tabs)
        await asyncio.sleep(seconds)
        cpu_s = page.process.cpu_s - before_s
        return cpu_s / max(sum(tab.heard.tokens for tab in tabs) - before, 1) * 1e3
    finally:
        for tab in tabs:
            tab.close()
        await asyncio.sleep(1.0)  # their turns end


@dataclass
class Live:
    """Many answers at once, to their ends."""

    p95_ms: float
    growth: float
    lost: int


async def _live(model: Upstream, page: Page, chats: int, tokens: int) -> Live:
    model.pace(Pace(tokens=tokens, per_second=TOKENS_PER_S))
    tabs = [Tab(page) for _ in range(chats)]
    try:
        for tab in tabs:
            await tab.open()
        for tab in tabs:
            await tab.ask()
        async with asyncio.timeout(tokens / TOKENS_PER_S * 4 + 60):
            while not all(tab.heard.tokens >= tokens for tab in tabs):
                await asyncio.sleep(0.2)
    except TimeoutError:
        pass  # what has not come by now is lost
    finally:
        for tab in tabs:
            tab.close()
        await asyncio.sleep(2.0)
    third = tokens // 3
    first, last = (
        [age for tab in tabs for age in tab.heard.ages_s[part]]
        for part in (slice(third), slice(-third, None))
    )
    return Live(
        quantile([age for tab in tabs for age in tab.heard.ages_s], 0.95) * 1e3,
        quantile(last, 0.5) / quantile(first, 0.5),
        sum(tokens - tab.heard.tokens for tab in tabs),
    )
