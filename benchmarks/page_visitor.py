"""A visitor of the page by the page's own protocol (gradio 6.31), without a browser.

    visitor = await PageVisitor.open(client)        # a tab: its session, its heartbeat, what a load does
    await visitor.ask("What is 2 + 2?", backend="Served", leave_after_s=None)
    await visitor.close()                           # as a closed tab is noticed: the heartbeat ends

Which event is which follows from the components' ``elem_id`` in ``/config``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

import httpx

API = "/gradio_api"


@dataclass
class PageVisitor:
    """One tab. `saved` is what the browser would keep for the next one."""

    client: httpx.AsyncClient
    config: dict[str, Any]
    saved: Any = None
    session: str = field(default_factory=lambda: secrets.token_hex(6))
    _heart: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, client: httpx.AsyncClient, saved: Any = None) -> PageVisitor:
        config = (await client.get("/config")).json()
        visitor = cls(client, config, saved)
        visitor._heart = asyncio.create_task(visitor._beat())
        for event in visitor._events("load"):
            await visitor._run(event)
        return visitor

    async def _beat(self) -> None:
        with contextlib.suppress(httpx.HTTPError):
            async with self.client.stream("GET", f"{API}/heartbeat/{self.session}", timeout=None) as reply:
                async for _ in reply.aiter_raw():
                    pass

    async def close(self) -> None:
        """Close the tab."""
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.wait({self._heart})

    # What a visitor does

    async def ask(self, question: str, *, backend: str, leave_after_s: float | None = None) -> bool:
        """Send a question and watch the answer; whether it was watched to its end.

        Args:
            leave_after_s: Close the connection after so long, as a lost network does.
        """
        accept = self._event("composer", "submit")
        await self._run(accept, {"composer": question, "Backend": backend})
        draw = self._after(accept)
        async with contextlib.AsyncExitStack() as stack:
            if leave_after_s is not None:
                stack.enter_context(contextlib.suppress(TimeoutError))
                await stack.enter_async_context(asyncio.timeout(leave_after_s))
            await self._watch(draw)
            await self._run(self._after(draw))
            return True
        return False

    async def stop(self) -> None:
        await self._run(self._event("composer", "stop"))

    async def new_chat(self) -> None:
        await self._run(self._event("new-chat", "click"))

    # The protocol

    @property
    def _asked(self) -> list[dict[str, Any]]:
        """The events that ask the app; others happen within the page alone."""
        return [event for event in self.config["dependencies"] if event["backend_fn"]]

    def _events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self._asked if any(target[1] == kind for target in event["targets"])]

    def _event(self, elem_id: str, kind: str) -> dict[str, Any]:
        component = next(c["id"] for c in self.config["components"] if c["props"].get("elem_id") == elem_id)
        return next(event for event in self._events(kind) if [component, kind] in event["targets"])

    def _after(self, event: dict[str, Any]) -> dict[str, Any]:
        return next(later for later in self._asked if later["trigger_after"] == event["id"])

    def _data(self, event: dict[str, Any], values: dict[str, Any]) -> list[Any]:
        by_id = {component["id"]: component for component in self.config["components"]}
        data = []
        for component in (by_id[number] for number in event["inputs"]):
            props = component["props"]
            if component["type"] == "browserstate" or _keeps_chat(component):
                data.append(self.saved if _keeps_chat(component) else None)
            else:
                name = props.get("elem_id") if props.get("elem_id") in values else props.get("label")
                data.append(values.get(name, props.get("value")))
        return data

    def _body(self, event: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
        return {
            "data": self._data(event, values),
            "fn_index": event["id"],
            "session_hash": self.session,
            "event_data": None,
        }

    async def _run(self, event: dict[str, Any], values: dict[str, Any] | None = None) -> None:
        """An event that is not queued."""
        reply = await self.client.post(f"{API}/run/predict", json=self._body(event, values or {}))
        assert reply.status_code == 200, (reply.status_code, event["id"], event["inputs"], reply.text[:300])
        by_id = {component["id"]: component for component in self.config["components"]}
        for number, value in zip(event["outputs"], reply.json()["data"], strict=False):
            if _keeps_chat(by_id[number]) and isinstance(value, str):
                self.saved = value

    async def _watch(self, event: dict[str, Any]) -> None:
        """A queued event, to its end."""
        joined = await self.client.post(f"{API}/queue/join", json=self._body(event, {}))
        joined.raise_for_status()
        mine = joined.json()["event_id"]
        async with self.client.stream(
            "GET", f"{API}/queue/data", params={"session_hash": self.session}, timeout=60
        ) as reply:
            async for line in reply.aiter_lines():
                if not line.startswith("data:"):
                    continue
                message = json.loads(line[5:])
                if message.get("event_id") == mine and message["msg"] == "process_completed":
                    return
                if message["msg"] == "close_stream":
                    return


def _keeps_chat(component: dict[str, Any]) -> bool:
    return bool(component["props"].get("elem_id") == "saved-chat")
