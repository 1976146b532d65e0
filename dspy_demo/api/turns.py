"""From an HTTP request to a turn, which ends when its client hangs up, and to a response of a protocol."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Annotated, Any

import anyio
from fastapi import Depends, Request
from fastapi.responses import Response, StreamingResponse

from dspy_demo import events
from dspy_demo.chat import ChatService
from dspy_demo.events import TURN_ID_HEADER, Event, LMChoice, Message, TurnFailed, TurnFinished, TurnRequest
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.streaming.turn_stream import TurnStream

#: A proxy or a browser gives up on a silent connection after 30 to 60 s.
KEEP_ALIVE_S = 15.0
DONE = b"data: [DONE]\n\n"
#: nginx and its like would otherwise collect what they pass on.
UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Asking:
    """Makes the turns that one HTTP request asks for, on the owner's model. A dependency of the routes."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.service: ChatService = request.app.state.service  # see `routes.build_api`
        self._default_lm: Callable[[], LMChoice] = request.app.state.default_lm
        self._visitor = getattr(request.state, "visitor", None) or events.GUEST
        self._allowance = None if self._visitor.role == "owner" else self.service.allowance

    def programs(self) -> list[ProgramSpec]:
        """Those that the visitor may ask for; the first one is the default."""
        specs = self.service.programs.specs()
        return self._allowance.programs_of(specs) if self._allowance else specs

    def program(self, name: str) -> ProgramSpec:
        return self.service.programs.get(name, [spec.name for spec in self.programs()])

    def turn(
        self,
        spec: ProgramSpec,
        inputs: Mapping[str, Any],
        history: Iterable[Message] = (),
        *,
        session_id: str = "",
        **changes: Any,
    ) -> TurnRequest:
        """A turn that can run, or `DemoError`; under the id of the request's header, where it has one.

        `changes` are temperature, max_tokens, at most the owner's, and cache; None for the owner's choice.
        """
        lm = self._default_lm()
        if self._allowance:
            lm = self._allowance.choice(lm)
        given = {name: value for name, value in changes.items() if value is not None}
        if lm.max_tokens is not None and "max_tokens" in given:
            given["max_tokens"] = min(lm.max_tokens, given["max_tokens"])
        target = events.LocalTarget(spec.name, dataclasses.replace(lm, **given))
        given_id = self.request.headers.get(TURN_ID_HEADER, "")
        turn_id = given_id if events.TURN_ID.fullmatch(given_id) else events.new_turn_id()
        turn = TurnRequest(target, inputs, joined(history), session_id, turn_id, self._visitor)
        self.service.check(turn)
        return turn

    def chat(self, spec: ProgramSpec, messages: Iterable[Message], **more: Any) -> TurnRequest:
        """The turn of a whole chat whose last message is the question, the user's."""
        *history, question = joined(messages)
        return self.turn(spec, {spec.chat_field: question.text}, history, **more)


Asked = Annotated[Asking, Depends(Asking)]


def joined(messages: Iterable[Message]) -> tuple[Message, ...]:
    """The same chat with neighbours of one role made one, since a history takes turns."""
    groups = itertools.groupby(messages, key=lambda message: message.role)
    return tuple(Message(role, "\n\n".join(one.text for one in group)) for role, group in groups)


#: Writes the events of one turn in one protocol, empty for nothing to send.
Encode = Callable[[Event], bytes]


def event_stream(asked: Asking, turn: TurnRequest, encode: Encode) -> StreamingResponse:
    """Run a turn and send each event as it comes, as server-sent events, and comments while it is silent."""
    headers = UNBUFFERED | {TURN_ID_HEADER: turn.turn_id}
    return StreamingResponse(_chunks(asked, turn, encode), headers=headers, media_type="text/event-stream")


async def _chunks(asked: Asking, request: TurnRequest, encode: Encode) -> AsyncIterator[bytes]:
    """A client that hangs up cancels this generator, which stops the turn and waits for its end."""
    stream = TurnStream[bytes]()

    async def run() -> None:
        async with asked.service.turn(request) as turn:
            async for event in turn:
                if chunk := encode(event):
                    await stream.send(chunk)

    stream.start(run())
    try:
        chunks = [b""]
        while chunks:
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    chunks = await stream.take()
            except TimeoutError:
                chunks = [b": keep-alive\n\n"]
            yield b"".join(chunks)
        stream.result()
    finally:
        with anyio.CancelScope(shield=True):
            await stream.close()


async def whole_answer(
    asked: Asking,
    turn: TurnRequest,
    *,
    finished: Callable[[TurnFinished], Response],
    failed: Callable[[TurnFailed], Response],
) -> Response:
    """Run a turn and answer with its end; a client that hangs up stops it, once its body has been read."""

    async def hung_up() -> None:
        while (await asked.request.receive())["type"] != "http.disconnect":
            pass

    working = asyncio.create_task(asked.service.answer(turn), name="api-turn")
    watching = asyncio.create_task(hung_up(), name="api-disconnect")
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return Response(status_code=499)
        end = working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
    response = finished(end) if isinstance(end, TurnFinished) else failed(end)
    response.headers[TURN_ID_HEADER] = turn.turn_id
    return response
