"""Guests' turns through `ChatService`: in line, running, cut and paid for; the owner passes."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dspy_demo.backends.base import Backend
from dspy_demo.errors import (
    InputTooLong,
    LineFull,
    ModelSetupError,
    RateLimited,
    UpstreamAuth,
    UpstreamCut,
)
from dspy_demo.events import (
    QUEUE_KEY,
    Event,
    FieldDelta,
    LMChoice,
    LocalTarget,
    ServedTarget,
    Status,
    TurnFinished,
    TurnRequest,
    TurnStarted,
    Usage,
    Visitor,
)
from dspy_demo.guests.budget import Amount
from dspy_demo.guests.limits import INSTRUCTION_TOKENS, GuestLimits, ordinal
from dspy_demo.turn import Turn
from tests.scripted_backend import Script, ScriptedBackend, scripted_answer
from tests.services import Heard, House, conversation, house, settings_for, until

CHOICE = LMChoice("scripted/model")
OWNER = Visitor("owner", "owner")
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()


@dataclasses.dataclass
class Clock:
    """Both clocks of the limits."""

    now_s: float = NOON

    def __call__(self) -> float:
        return self.now_s


class HeldBackend:
    """Begins each turn, and ends it when it is told to."""

    name = "held"

    def __init__(self) -> None:
        self.running: dict[str, asyncio.Event] = {}

    async def stream(self, request: TurnRequest) -> AsyncIterator[Event]:
        question = request.inputs["question"]
        self.running[question] = asyncio.Event()
        try:
            yield TurnStarted("local", "held")
            await self.running[question].wait()
            yield TurnFinished({"answer": question}, Usage(5, 5))
        finally:
            del self.running[question]

    async def aclose(self) -> None: ...


@asynccontextmanager
async def guests(
    data_dir: Path,
    backend: Backend | Script,
    *,
    clock: Clock | None = None,
    database: Path | None = None,
    **settings,
) -> AsyncIterator[tuple[House, GuestLimits]]:
    """A house with limits that are out of the way, but for those that `settings` name."""
    wide = {"guests_turns_per_minute": 1000, "guest_turns_per_minute": 1000, "guest_concurrent_turns": 100}
    values = wide | settings
    constants = ("guest_turns_per_minute", "queue_turns", "queue_timeout_s", "turn_timeout_s")
    own = {name: values.pop(name) for name in constants if name in values}
    made = settings_for(data_dir, **values)
    clock = clock or Clock()
    limits = GuestLimits(made, database, clock=clock, wall_clock=clock, **own)
    backend = ScriptedBackend(backend) if isinstance(backend, list) else backend
    async with house(made, CHOICE, local=backend, served=backend, limits=limits) as home:
        yield home, limits


def ask(home: House, who: str, question: str = "?", **changes) -> TurnRequest:
    visitor = OWNER if who == "owner" else Visitor("guest", who)
    return dataclasses.replace(home.request(question), visitor=visitor, **changes)


class Watched:
    """A turn that runs in a task of its own."""

    def __init__(self, home: House, request: TurnRequest) -> None:
        self.turn: Turn = home.service.turn(request)
        self.heard = Heard()
        self.task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        async with self.turn:
            async for event in self.turn:
                self.heard.events.append(event)

    @property
    def line(self) -> list[Status]:
        return [status for status in self.heard.statuses if status.key == QUEUE_KEY]


# In line


async def test_the_place_in_line_is_shown_as_it_changes_and_ends_as_done(data_dir: Path) -> None:
    clock, backend = Clock(), HeldBackend()
    async with guests(data_dir, backend, clock=clock, guests_concurrent_turns=1) as (home, limits):
        turns = []
        for name in "abcd":
            turns.append(Watched(home, ask(home, name, name)))
            await until(lambda: len(limits.running + limits.waiting) == len(turns))
        last = turns[-1]
        await until(lambda: last.line)
        clock.now_s += 7
        for name in "abc":
            backend.running[name].set()
            await until(lambda name=name: name not in backend.running and backend.running)
        backend.running["d"].set()
        await asyncio.gather(*(turn.task for turn in turns))
    texts = [status.text for status in last.line]
    assert texts == [
        "You are 3rd in line.",
        "You are 2nd in line.",
        "You are 1st in line.",
        "Waited in line for 7 s.",
    ]
    assert [status.state for status in last.line] == ["pending"] * 3 + ["done"]
    assert last.heard.events[:4] == last.line
    assert isinstance(last.heard.events[4], TurnStarted)
    assert last.heard.finished.outputs == {"answer": "d"}
    assert [event.kind for event in turns[0].heard.events] == ["started", "finished"]  # it did not wait


async def test_a_second_turn_of_the_same_guest_waits_for_the_first(data_dir: Path) -> None:
    backend = HeldBackend()
    async with guests(data_dir, backend, guest_concurrent_turns=1) as (home, _):
        first = Watched(home, ask(home, "a", "first"))
        await until(lambda: "first" in backend.running)
        second = Watched(home, ask(home, "a", "second"))
        await until(lambda: second.line)
        assert second.line[0].text == "This question waits for your other one to end."
        with pytest.raises(LineFull):
            home.service.check(ask(home, "a"))
        home.service.check(ask(home, "b"))
        backend.running["first"].set()
        await until(lambda: "second" in backend.running)
        backend.running["second"].set()
        await asyncio.gather(first.task, second.task)
    assert second.heard.finished


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_ending_while_waiting_leaves_the_line_at_once(data_dir: Path, how: str) -> None:
    backend = HeldBackend()
    async with guests(data_dir, backend, guests_concurrent_turns=1) as (home, limits):
        turns = [Watched(home, ask(home, name, name)) for name in "ab"]
        await until(lambda: turns[1].line)
        assert home.service.waiting == {turns[1].turn}
        if how == "stop":
            await turns[1].turn.stop()
            assert not limits.waiting
        else:
            turns[1].task.cancel()
        await asyncio.wait({turns[1].task})
        assert not limits.waiting
        assert not home.service.waiting
        backend.running["a"].set()
        await turns[0].task
        assert limits.budget.spent().tokens == 10  # who only waited pays nothing
    assert {event.kind for event in turns[1].heard.events} == {"status"}


async def test_who_waits_too_long_is_told_kindly(data_dir: Path) -> None:
    backend = HeldBackend()
    async with guests(data_dir, backend, guests_concurrent_turns=1, queue_timeout_s=0.05) as (
        home,
        limits,
    ):
        first = Watched(home, ask(home, "a", "a"))
        await until(lambda: backend.running)
        waited = await home.run(ask(home, "b"))
        assert [event.kind for event in waited.events] == ["status", "started", "failed"]
        assert waited.failed.code == "waited_too_long"
        assert waited.failed.http_status == 429
        assert not limits.waiting
        await first.turn.stop()
        await first.task


async def test_the_wait_counts_in_no_time_of_the_turn(data_dir: Path) -> None:
    backend = ScriptedBackend(lambda request: scripted_answer("x"), pause_s=0.05)
    slow = HeldBackend()

    class Both:
        name = "both"

        def stream(self, request: TurnRequest) -> AsyncIterator[Event]:
            return (slow if request.visitor.name == "slow" else backend).stream(request)

        async def aclose(self) -> None: ...

    async with guests(data_dir, Both(), guests_concurrent_turns=1, total_timeout_s=0.4) as (home, _):
        first = Watched(home, ask(home, "slow"))
        await until(lambda: slow.running)
        second = Watched(home, ask(home, "quick"))
        await asyncio.gather(first.task, second.task)  # the first one is ended by its time-out
    assert first.heard.failed.code == "upstream_timeout"
    assert second.line[-1].state == "done"
    assert second.heard.finished.elapsed_s < 0.4
    assert second.heard.finished.first_delta_s is not None
    assert second.heard.finished.first_delta_s <= second.heard.finished.elapsed_s


async def test_closing_the_service_ends_waiting_turns_too(data_dir: Path) -> None:
    backend = HeldBackend()
    async with guests(data_dir, backend, guests_concurrent_turns=1) as (home, limits):
        turns = [Watched(home, ask(home, name, name)) for name in "abc"]
        await until(lambda: len(limits.waiting) == 2)
        await home.service.aclose()
        await asyncio.gather(*(turn.task for turn in turns))
        assert not backend.running
        assert not home.service.waiting | home.service.running


# The owner


async def test_the_owner_has_no_limits_of_guests_and_always_room(data_dir: Path) -> None:
    backend = HeldBackend()
    tight = {"guest_turns_per_minute": 1, "guest_input_max_chars": 1, "max_turns": 3}
    async with guests(data_dir, backend, **tight) as (home, limits):
        running = [Watched(home, ask(home, name, name)) for name in "abc"]
        await until(lambda: len(limits.waiting) == 1)
        assert len(home.service.running) == 2
        limits.budget.spent(Amount(10_000_000))
        for _ in range(3):
            owners = Watched(home, ask(home, "owner", "a long question"))
            await until(lambda: "a long question" in backend.running)
            backend.running["a long question"].set()
            await owners.task
            assert [event.kind for event in owners.heard.events] == ["started", "finished"]
        assert limits.budget.spent().tokens == 10_000_000
        for turn in running:
            await turn.turn.stop()


# Limits of one turn


async def test_too_many_turns_a_minute_are_refused_before_anything_runs(data_dir: Path) -> None:
    clock = Clock()
    async with guests(data_dir, scripted_answer("x"), clock=clock, guest_turns_per_minute=2) as (
        home,
        _,
    ):
        for _ in range(2):
            home.service.check(ask(home, "a"))  # asking whether it could run counts nothing
            assert (await home.run(ask(home, "a"))).finished
        with pytest.raises(RateLimited) as told:
            home.service.check(ask(home, "a"))
        assert told.value.limit == "guest_turns_per_minute"
        refused = (await home.run(ask(home, "a"))).failed
        assert (refused.code, refused.http_status, refused.retry_after_s) == ("rate_limited", 429, 60)
        clock.now_s += 60
        assert (await home.run(ask(home, "a"))).finished


async def test_the_input_of_a_guest_is_shorter(data_dir: Path) -> None:
    async with guests(data_dir, scripted_answer("x"), guest_input_max_chars=20) as (home, _):
        with pytest.raises(InputTooLong, match="the limit is 20"):
            home.service.check(ask(home, "a", "12345678901", history=conversation("1234567890")))
        home.service.check(ask(home, "owner", "x" * 21))
        assert home.service.input_max_chars(Visitor("guest", "a")) == 20


@pytest.mark.parametrize(("asked", "sent"), [(None, 100), (50, 50), (999, 100)])
async def test_every_model_call_is_capped(data_dir: Path, asked: int | None, sent: int) -> None:
    seen: list[TurnRequest] = []

    def script(request: TurnRequest) -> Script:
        seen.append(request)
        return scripted_answer("x")

    targets = [
        LocalTarget("chain_of_thought", LMChoice("m", max_tokens=asked)),
        ServedTarget("http://127.0.0.1:1", max_tokens=asked),
    ]
    async with guests(data_dir, ScriptedBackend(script), guest_output_max_tokens=100) as (home, _):
        for target in targets:
            assert (await home.run(ask(home, "a", target=target))).finished
            assert (await home.run(ask(home, "owner", target=target))).finished
    capped_local, free_local, capped_served, free_served = (request.target for request in seen)
    assert isinstance(capped_local, LocalTarget)
    assert isinstance(capped_served, ServedTarget)
    assert (capped_local.lm.max_tokens, capped_served.max_tokens) == (sent, sent)
    assert [free_local, free_served] == targets


async def test_an_endless_turn_is_ended_with_its_text_kept_and_its_upstream_closed(data_dir: Path) -> None:
    calls = [FieldDelta("thought", "reasoning", "word " * 4, f"react#{number}") for number in range(1000)]
    backend = ScriptedBackend([TurnStarted("local", "m"), *calls])
    async with guests(data_dir, backend, guest_output_max_tokens=100) as (home, limits):
        heard = await home.run(ask(home, "a"))
        assert backend.open_streams == 0
        assert heard.failed.code == "answer_too_long"
        assert "100 tokens" in heard.failed.public_message
        assert 100 * 4 <= len(heard.text("thought")) <= 150 * 4
        assert not limits.running


async def test_a_guests_turn_has_less_time(data_dir: Path) -> None:
    backend = HeldBackend()
    async with guests(data_dir, backend, turn_timeout_s=0.05) as (home, _):
        owners = Watched(home, ask(home, "owner", "owner's"))
        await until(lambda: backend.running)
        heard = await home.run(ask(home, "a"))
        assert "longer than 0.05 seconds" in heard.failed.public_message
        assert list(backend.running) == ["owner's"]
        await owners.turn.stop()
        await owners.task


# The day's budget


@pytest.mark.parametrize(
    ("end", "tokens"),
    [
        ([TurnFinished({"answer": "x"}, Usage(30, 12))], 42),
        ([TurnFinished({"answer": "x"}, Usage(30, 12, cost_usd=float("nan")))], 42),
        ([TurnFinished({"answer": "x"}, Usage(-30, 12))], INSTRUCTION_TOKENS + 10 + 4),
        ([TurnFinished({"answer": "x"}, Usage(cached=True))], 0),
        ([TurnFinished({"answer": "x" * 400})], INSTRUCTION_TOKENS + 10 + 104),
        ([UpstreamAuth()], 0),
        ([ModelSetupError()], 0),
        ([UpstreamCut()], INSTRUCTION_TOKENS + 10),
        ([FieldDelta("answer", "answer", "x" * 80, "predict"), UpstreamCut()], INSTRUCTION_TOKENS + 10 + 20),
        (
            [FieldDelta("a", "answer", "x" * 80, step) for step in ("one", "two")] + [UpstreamAuth()],
            2 * (INSTRUCTION_TOKENS + 10) + 40,
        ),
    ],
)
async def test_a_turn_pays_what_was_told_or_what_it_looks_like(
    data_dir: Path, end: list[Event], tokens: int
) -> None:
    async with guests(data_dir, [TurnStarted("local", "m"), *end]) as (home, limits):
        await home.run(ask(home, "a", "x" * 40))
        assert limits.budget.spent().tokens == tokens
        assert limits.budget._reserved == Amount()


async def test_a_stopped_turn_pays_for_what_it_was_sent(data_dir: Path) -> None:
    backend = HeldBackend()
    async with guests(data_dir, backend) as (home, limits):
        turn = Watched(home, ask(home, "a", "x" * 40))
        await until(lambda: backend.running)
        await turn.turn.stop()
        await turn.turn.stop()
        await turn.task
        assert limits.budget.spent().tokens == INSTRUCTION_TOKENS + 10


async def test_a_price_once_told_is_used_where_none_is(data_dir: Path) -> None:
    ends = iter([Usage(50, 50, cost_usd=0.02), Usage(50, 50)])
    backend = ScriptedBackend(
        lambda _: [TurnStarted("local", "m"), TurnFinished({"answer": "x"}, next(ends))]
    )
    async with guests(data_dir, backend) as (home, limits):
        await home.run(ask(home, "a"))
        await home.run(ask(home, "a"))
        assert limits.budget.spent() == Amount(200, 0.04)


async def test_many_turns_at_once_cannot_overshoot_the_budget(data_dir: Path) -> None:
    backend = HeldBackend()
    wide = {"guests_concurrent_turns": 100, "guests_daily_tokens": 10_000, "guest_output_max_tokens": 2_000}
    async with guests(data_dir, backend, **wide) as (home, limits):
        turns = [Watched(home, ask(home, "a", str(number))) for number in range(50)]
        await until(lambda: sum(turn.task.done() for turn in turns) == 45)
        assert len(backend.running) == 5  # of 2,400 each
        assert {turn.heard.failed.code for turn in turns if turn.task.done()} == {"rate_limited"}
        for event in backend.running.values():
            event.set()
        await asyncio.gather(*(turn.task for turn in turns))
        assert limits.budget.spent().tokens == 50
        home.service.check(ask(home, "a"))


async def test_a_spent_day_is_refused_and_a_new_day_is_a_new_budget(data_dir: Path) -> None:
    clock = Clock()
    script = [TurnStarted("local", "m"), TurnFinished({"answer": "x"}, Usage(500, 500))]
    async with guests(data_dir, script, clock=clock, guests_daily_tokens=1000) as (home, _):
        assert (await home.run(ask(home, "a"))).finished
        refused = (await home.run(ask(home, "b"))).failed
        assert refused.code == "budget_spent"
        assert "00:00 UTC, in about 12 hours" in refused.public_message
        clock.now_s += 12 * 3600
        assert (await home.run(ask(home, "a"))).finished


async def test_a_guest_who_fills_the_queue_leaves_room_for_a_newcomer(data_dir: Path) -> None:
    """First come, first served; a guest has a few places of it."""
    backend = HeldBackend()
    few = {"guests_concurrent_turns": 1, "guest_concurrent_turns": 2}
    async with guests(data_dir, backend, **few) as (home, _):
        greedy = [Watched(home, ask(home, "a", f"a{number}")) for number in range(6)]
        await until(lambda: sum(turn.task.done() for turn in greedy) == 3)
        newcomer = Watched(home, ask(home, "b", "b"))
        await until(lambda: newcomer.line)
        assert newcomer.line[0].text == "You are 3rd in line."
        for turn in [*greedy, newcomer]:
            await turn.turn.stop()


async def test_the_queue_ends(data_dir: Path) -> None:
    backend = HeldBackend()
    async with guests(data_dir, backend, guests_concurrent_turns=1, queue_turns=2) as (home, limits):
        turns = [Watched(home, ask(home, name, name)) for name in "abc"]
        await until(lambda: len(limits.waiting) == 2)
        with pytest.raises(LineFull):
            home.service.check(ask(home, "d"))
        for turn in turns:
            await turn.turn.stop()


def test_ordinals() -> None:
    texts = [ordinal(number) for number in (1, 2, 3, 4, 11, 12, 21, 113)]
    assert texts == ["1st", "2nd", "3rd", "4th", "11th", "12th", "21st", "113th"]
