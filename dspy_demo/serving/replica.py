"""One process that serves a version: its name in every reply, and its exit codes.

Whoever started the process knows it by a random name, so that nothing else on its port is taken for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dspy_demo.command_line import ENV_PREFIX

#: The variable that gives the process its name.
INSTANCE_VARIABLE = f"{ENV_PREFIX}INSTANCE"
#: Exit codes: a flag or a variable is wrong (argparse's own code too); the version cannot be served. The
#: last line on stderr says why.
WRONG_USAGE, CANNOT_SERVE = 2, 3


class NamedReplies:
    """Middleware that adds headers to every reply; see `backends.served_wire.check_identity`."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str]) -> None:
        self._app = app
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
            await send(message)

        await self._app(scope, receive, named if scope["type"] == "http" else send)
