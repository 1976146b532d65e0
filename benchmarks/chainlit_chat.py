"""Open Chainlit pages without a browser: what its frontend (2.12) sends over Socket.IO, what comes back."""

from __future__ import annotations

import asyncio
import json
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import socketio

from benchmarks.chats import Chat, Server
from benchmarks.processes import Process, free_port
from benchmarks.servers import QUESTION
from benchmarks.upstream import Upstream
from benchmarks.venvs import python_with

REQUIREMENTS = ("chainlit==2.12.0",)
TIMEOUT_S = 60.0


class ChainlitServer(Server):
    def chat(self) -> Chat:
        return ChainlitChat(self)


class ChainlitChat(Chat):
    """A page of Chainlit: the session is in the server, the messages are in both."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._url = server.url
        self._past = asyncio.Semaphore(0)
        self._socket = socketio.AsyncClient(reconnection=False)
        self._socket.on("new_message", self._message)
        self._socket.on("stream_start", self._begin)
        self._socket.on("stream_token", self._token)

    async def open(self, messages: int) -> None:
        auth = {
            "sessionId": str(uuid.uuid4()),
            "clientType": "webapp",
            "threadId": "",
            "userEnv": json.dumps({"MESSAGES": str(messages)}),
            "chatProfile": "",
        }
        # A browser begins with polling and changes over; what streams is the same.
        await self._socket.connect(
            self._url, auth=auth, transports=["websocket"], socketio_path="/ws/socket.io"
        )
        await self._socket.emit("connection_successful")
        async with asyncio.timeout(TIMEOUT_S):
            for _ in range(messages):
                await self._past.acquire()

    async def ask(self) -> None:
        message = {
            "id": str(uuid.uuid4()),
            "threadId": "",
            "name": "user",
            "type": "user_message",
            "output": QUESTION,
            "createdAt": "2026-01-01T00:00:00.000Z",
        }
        await self._socket.emit("client_message", {"message": message, "fileReferences": []})

    async def close(self) -> None:
        """Stop the answer and forget the session: a page that is only closed leaves both (2.12)."""
        for event in ("stop", "clear_session"):
            await self._socket.call(event, timeout=TIMEOUT_S)  # done when it is acknowledged
        await self._socket.disconnect()

    def _message(self, step: dict[str, Any]) -> None:
        self._past.release()

    def _begin(self, step: dict[str, Any]) -> None:
        """The first token comes in the message that it begins."""
        self.heard.hear(step["output"].encode())

    def _token(self, data: dict[str, Any]) -> None:
        self.heard.hear(data["token"].encode())


@contextmanager
def chainlit_page(upstream: Upstream) -> Iterator[Server]:
    """The peer, in a folder of its own, where it writes its configuration."""
    port, python = free_port(), python_with("chainlit", REQUIREMENTS, shared=False)
    command = [python, "-m", "benchmarks.peers.chainlit_app", "--port", str(port), "--upstream", upstream.url]
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-chainlit-", ignore_cleanup_errors=True) as folder,
        Process(command, port, cwd=Path(folder)) as process,
    ):
        process.wait_until_answers()
        yield ChainlitServer("Chainlit", process)
