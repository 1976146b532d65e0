"""Model servers as the page sees them: serve a version, switch to another without a failed turn, stop.

    servers = ModelServers(settings)
    await servers.serve("models:/dspy-demo/3")       # ready, or ChildFailed; `state()` tells more meanwhile
    await servers.serve("models:/dspy-demo/4")       # the old one goes when its last turn has ended
    await servers.stop()

All of it belongs to one event loop; `state` and `states` may be called from any thread.
"""

from __future__ import annotations

import asyncio
from typing import get_args

from pydantic import SecretStr

from dspy_demo.children import leftovers
from dspy_demo.children.process import ChildFailed, Phase
from dspy_demo.serving.version_process import ServerState, VersionProcess, run_dir
from dspy_demo.settings import Settings

__all__ = ["SERVER_PHASES", "ModelServers", "ServerState"]

#: What `ModelServers.phase` can be.
SERVER_PHASES: tuple[str, ...] = ("none", *get_args(Phase))


class ModelServers:
    """The model servers of this app: the current one, the next one, and old ones that finish their turns."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._current: VersionProcess | None = None
        self._next: VersionProcess | None = None
        self._beside: list[VersionProcess] = []
        self._retiring: dict[asyncio.Task[None], VersionProcess] = {}
        self._turn = asyncio.Lock()

    # --- look ---

    def state(self) -> ServerState:
        """The current server, and under ``next`` the one that is to follow it."""
        following = self._next.state() if self._next else None
        if self._current is None:
            return following or ServerState()
        return self._current.state(following)

    def phase(self) -> str:
        """The current server's phase, or ``none``."""
        server = self._current or self._next
        return server.phase if server else "none"

    def states(self) -> list[ServerState]:
        """Every server that can be asked: the current one first, then those beside it."""
        states = [server.state() for server in [self._current, *self._beside] if server]
        return [state for state in states if state.phase == "ready"]

    # --- act ---

    async def serve(
        self, version: str, *, api_key: SecretStr | None = None, port: int | None = None, beside: bool = False
    ) -> ServerState:
        """Start a server for `version` and make it the current one.

        One that serves it already is taken as it is. The one before goes when its turns have ended.

        Args:
            version: ``models:/NAME/3`` or ``models:/NAME@champion``.
            api_key: A typed key for the version's language model; it goes into the server's environment.
                Without it the server finds the provider's own variable there.
            port: Where to listen; if it is in use another one is taken.
            beside: Keep the current one, and this as a further one: for a comparison.

        Raises:
            ChildFailed: It did not start; what was current stays so.
        """
        async with self._turn:
            running = self._ready_for(version)
            if running is None:
                running = self._next = VersionProcess(version, self._settings, api_key)
                await running.start(port)  # a failure stays visible as `next`
                self._next = None
            if beside:
                if running is not self._current and running not in self._beside:
                    self._beside.append(running)
            else:
                self._make_current(running)
            return running.state()

    #: Serving another version is switching to it.
    switch = serve

    async def restart(self) -> ServerState:
        """Start the current server again, on the same version, after it failed or to take up a new alias.

        Raises:
            ChildFailed: There is none, or it did not start.
        """
        async with self._turn:
            server = self._current or self._next
            if server is None:
                raise ChildFailed("No version is being served. Choose one under “Versions”.")
            await server.stop()
            self._current, self._next = server, None
            await server.start()
            return server.state()

    async def stop(self, version: str | None = None) -> None:
        """End the servers of `version`, or all of them, also one that is starting."""
        servers = [server for server in self._all() if version is None or server.serves(version)]
        await asyncio.gather(*(server.stop() for server in servers))
        if self._next in servers:
            self._next = None
        self._beside = [server for server in self._beside if server not in servers]

    async def aclose(self) -> None:
        """End everything; for the app's exit."""
        for task in list(self._retiring):
            task.cancel()
        await self.stop()

    def clean_leftovers(self) -> list[str]:
        """End what a crash of this app left running, and say what it was. Blocks for some seconds at most."""
        return leftovers.clean(run_dir(self._settings))

    def _all(self) -> list[VersionProcess]:
        return [s for s in (self._current, self._next, *self._beside, *self._retiring.values()) if s]

    def _ready_for(self, version: str) -> VersionProcess | None:
        """A server that answers for exactly this version; an alias may mean another one by now."""
        for server in (self._current, *self._beside):
            if server and server.state().phase == "ready" and server.version == version:
                return server
        return None

    def _make_current(self, server: VersionProcess) -> None:
        before, self._current = self._current, server
        if server in self._beside:
            self._beside.remove(server)
        if before is not None and before is not server:
            task = asyncio.create_task(before.retire(), name="retire-model-server")
            self._retiring[task] = before
            task.add_done_callback(self._retiring.pop)
