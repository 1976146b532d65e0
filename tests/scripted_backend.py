"""A backend that plays given events: for tests and for drawing the page without a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from dspy_demo.errors import DemoError
from dspy_demo.events import Event, FieldDelta, TurnFinished, TurnRequest, TurnStarted

Script = Sequence[Event | DemoError]


class ScriptedBackend:
    """Plays a script, the same for every turn or made from the request; a `DemoError` in it is raised."""

    name = "scripted"

    def __init__(self, script: Script | Callable[[TurnRequest], Script], *, pause_s: float = 0.0) -> None:
        self._script = script
        self._pause_s = pause_s
        self.open_streams = 0

    async def stream(self, request: TurnRequest) -> AsyncIterator[Event]:
        script = self._script(request) if callable(self._script) else self._script
        self.open_streams += 1
        try:
            for step in script:
                await asyncio.sleep(self._pause_s)
                if isinstance(step, DemoError):
                    raise step
                yield step
        finally:
            self.open_streams -= 1

    async def aclose(self) -> None:
        return None


def scripted_answer(answer: str, *, reasoning: str = "", tokens: Iterable[str] | None = None) -> list[Event]:
    """The events of an ordinary chain-of-thought turn that ends in `answer`."""
    pieces = list(tokens) if tokens is not None else answer.split(" ")
    events: list[Event] = [TurnStarted("local", "scripted/model")]
    thoughts = f"{reasoning} ".split(" ")[:-1] if reasoning else []
    events += [FieldDelta("reasoning", "reasoning", f"{word} ", "predict") for word in thoughts]
    events += [FieldDelta("answer", "answer", piece, "predict") for piece in pieces]
    outputs = {"reasoning": reasoning, "answer": answer} if reasoning else {"answer": answer}
    return [*events, TurnFinished(outputs)]
