"""Guests' turns: what they may use, in line, running, cut and paid for out of a day's budget."""

import asyncio
import dataclasses
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from dspy_demo import errors, events
from dspy_demo.events import FieldDelta, LMChoice, LocalTarget, ServedTarget, TurnFinished, TurnStarted, Usage
from dspy_demo.guests.allowance import Allowance
from dspy_demo.guests.budget import DailyBudget
from dspy_demo.guests.limits import INSTRUCTION_TOKENS, Bounds, GuestLimits
from dspy_demo.lm.choices import Detection, LMOption
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from tests.scripted_backend import ScriptedBackend, scripted_answer
from tests.services import Heard, conversation, house, settings_for, until
from tests.visitors import OWNER, STRANGER

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()
STARTED, USUAL = TurnStarted("local", "m"), Bounds()
INNER, SERVER, PROGRAM = "http://inner:8000/v1", "http://127.0.0.1:5001", "chain_of_thought"
START = LMChoice("openai/small", INNER, SecretStr("sk-owner"), temperature=0.5)
LARGE = LMChoice("openai/large")
OPTIONS = (LMOption("openai/small", "Small", INNER, INNER), LMOption(LARGE.model, "Large", "key found"))


class HeldBackend(ScriptedBackend):
    """Begins each turn, and ends it when it is told to."""

    def __init__(self):
        self.running = {}

    async def end(self, question):
        await until(lambda: question in self.running)
        self.running[question].set()

    async def stream(self, request):
        question = request.inputs["question"]
        self.running[question] = asyncio.Event()
        try:
            yield STARTED
            await self.running[question].wait()
            yield TurnFinished({"answer": question}, Usage(5, 5))
        finally:
            del self.running[question]


@asynccontextmanager
async def guests(data_dir, backend, bounds=USUAL, now_s=(NOON,), **settings):
    """A house with limits; those that are no settings as `bounds` has them."""
    made = settings_for(data_dir, **settings)
    limits = GuestLimits(made, bounds=bounds, clock=lambda: now_s[-1])
    async with house(made, LMChoice("m"), local=backend, served=backend, limits=limits) as home:
        yield home, limits


def ask(home, who, question="?", **changes):
    visitor = OWNER if who == "owner" else events.Visitor("guest", who)
    return dataclasses.replace(home.request(question), visitor=visitor, **changes)


class Watched(Heard):
    """A turn that runs in a task of its own."""

    def __init__(self, home, who, question=""):
        super().__init__()
        self.turn = home.service.turn(ask(home, who, question or who))
        self.task = asyncio.create_task(self._watch())

    async def _watch(self):
        async with self.turn:
            async for event in self.turn:
                self.events.append(event)

    @property
    def kinds(self):
        return [event.kind for event in self.events]


async def test_turns_wait_in_line_see_their_place_and_are_refused_when_it_is_full(data_dir):
    backend, short = HeldBackend(), Bounds(queue_turns=2)
    async with guests(data_dir, backend, short, guests_concurrent_turns=1) as (home, limits):
        turns = []
        for name in "abc":
            turns.append(Watched(home, name))
            await until(lambda: len(limits.running + limits.waiting) == len(turns))
        with pytest.raises(errors.LineFull):
            home.service.check(ask(home, "d"))
        await until(lambda: turns[-1].events)
        for name in "abc":
            await backend.end(name)
        await asyncio.gather(*(turn.task for turn in turns))
    assert turns[-1].events[:3] == [
        events.Status("You are number 2 in line.", "pending", events.QUEUE_KEY),
        events.Status("You are number 1 in line.", "pending", events.QUEUE_KEY),
        events.Status("Waited in line.", "done", events.QUEUE_KEY),
    ]
    assert turns[-1].kinds[3:] == turns[0].kinds == ["started", "finished"]


async def test_ending_while_waiting_leaves_the_line_at_once_and_costs_nothing(data_dir):
    backend = HeldBackend()
    async with guests(data_dir, backend, guests_concurrent_turns=1) as (home, limits):
        turns = [Watched(home, name) for name in "abc"]
        await until(lambda: turns[2].events)
        await turns[1].turn.stop()
        await asyncio.wait({turns[1].task})
        assert home.service.waiting == {turns[2].turn}
        await backend.end("a")
        await turns[0].task
        assert limits.budget.spent()[0] == 10
        turns.append(Watched(home, "d"))
        await until(lambda: turns[3].events)
        await home.service.aclose()
        await asyncio.wait({turns[3].task})
        assert not limits.waiting and not home.service.waiting
    assert turns[1].kinds == turns[3].kinds == ["status"]


async def test_a_guest_waits_and_runs_for_a_limited_time(data_dir):
    backend, short = HeldBackend(), Bounds(queue_timeout_s=0.05, turn_timeout_s=0.2)
    async with guests(data_dir, backend, short, guests_concurrent_turns=1) as (home, limits):
        first, owners = Watched(home, "a"), Watched(home, "owner")
        await until(lambda: len(backend.running) == 2)
        waited = await home.run(ask(home, "b"))
        assert (waited.failed.code, waited.failed.http_status) == ("waited_too_long", 429)
        await first.task
        assert "longer than 0.2 seconds" in first.failed.public_message
        assert (list(backend.running), limits.running, limits.waiting) == (["owner"], [], [])
        await owners.turn.stop()


async def test_the_owner_has_no_limits_of_guests_and_always_room(data_dir):
    backend, tight = HeldBackend(), Bounds(turns_per_minute=1, input_max_chars=1)
    async with guests(data_dir, backend, tight, max_turns=3) as (home, limits):
        running = [Watched(home, name) for name in "abc"]
        await until(lambda: len(limits.waiting) == 1)
        limits.budget.spent(10_000_000)
        for _ in range(2):
            owners = Watched(home, "owner", "a long question")
            await backend.end("a long question")
            await owners.task
            assert owners.kinds == ["started", "finished"]
        assert limits.budget.spent()[0] == 10_000_000
        for turn in running:
            await turn.turn.stop()


async def test_too_many_turns_a_minute_and_too_long_inputs_are_refused_before_anything_runs(data_dir):
    now_s, tight = [NOON], Bounds(turns_per_minute=2, input_max_chars=20)
    backend = ScriptedBackend(scripted_answer("x"))
    async with guests(data_dir, backend, tight, now_s) as (home, _):
        for _ in range(2):
            home.service.check(ask(home, "a"))  # asking whether it could run counts nothing
            assert (await home.run(ask(home, "a"))).finished
        refused = (await home.run(ask(home, "a"))).failed
        assert (refused.code, refused.http_status, refused.retry_after_s) == ("rate_limited", 429, 60)
        now_s.append(NOON + 60)
        assert (await home.run(ask(home, "a"))).finished
        with pytest.raises(errors.InputTooLong, match="the limit is 20"):
            home.service.check(ask(home, "b", "12345678901", history=conversation("1234567890")))


@pytest.mark.parametrize(("asked", "sent"), [(None, 100), (50, 50)])
async def test_every_model_call_is_capped_and_answered_anew(data_dir, asked, sent):
    seen = []
    backend = ScriptedBackend(lambda request: seen.append(request.target) or scripted_answer("x"))
    local = LocalTarget("chain_of_thought", LMChoice("m", max_tokens=asked))
    served = ServedTarget("http://127.0.0.1:1", max_tokens=asked)
    async with guests(data_dir, backend, guest_output_max_tokens=100) as (home, _):
        for target in (local, served):
            for who in ("a", "owner"):
                assert (await home.run(ask(home, who, target=target))).finished
    capped_local, free_local, capped_served, free_served = seen
    for capped in (capped_local.lm, capped_served):
        assert (capped.max_tokens, capped.cache) == (sent, False)
    assert [free_local, free_served] == [local, served]


async def test_an_endless_turn_is_ended_with_its_text_kept_and_its_upstream_closed(data_dir):
    calls = [FieldDelta("thought", "reasoning", "word " * 4, f"react#{number}") for number in range(1000)]
    backend = ScriptedBackend([STARTED, *calls])
    async with guests(data_dir, backend, guest_output_max_tokens=100) as (home, _):
        heard = await home.run(ask(home, "a"))
        assert (heard.failed.code, backend.open_streams) == ("answer_too_long", 0)
        assert 100 * 4 <= len(heard.text("thought")) <= 150 * 4


@pytest.mark.parametrize(
    ("end", "spent"),
    [
        ([TurnFinished({"answer": "x"}, Usage(30, 12, cost_usd=0.02))], (42, 0.02)),
        ([TurnFinished({"answer": "x"}, Usage(-30, 12))], (INSTRUCTION_TOKENS + 14, 0)),
        ([TurnFinished({"answer": "x" * 400})], (INSTRUCTION_TOKENS + 114, 0)),
        ([errors.UpstreamAuth()], (0, 0)),
        ([FieldDelta("answer", "answer", "x" * 80), errors.UpstreamAuth()], (INSTRUCTION_TOKENS + 30, 0)),
    ],
)
async def test_a_turn_pays_what_was_told_or_what_it_looks_like(data_dir, end, spent):
    async with guests(data_dir, ScriptedBackend([STARTED, *end])) as (home, limits):
        await home.run(ask(home, "a", "x" * 40))
        assert limits.budget.spent() == spent


async def test_many_turns_at_once_cannot_overshoot_the_budget(data_dir):
    backend, many = HeldBackend(), Bounds(turns_per_minute=1000)
    wide = {"guests_concurrent_turns": 100, "guests_daily_tokens": 10_000, "guest_output_max_tokens": 2_000}
    async with guests(data_dir, backend, many, **wide) as (home, limits):
        turns = [Watched(home, "a", str(number)) for number in range(50)]
        await until(lambda: sum(turn.task.done() for turn in turns) == 45)
        assert len(backend.running) == 5  # of 2,400 each
        assert {turn.failed.code for turn in turns if turn.task.done()} == {"rate_limited"}
        for event in backend.running.values():
            event.set()
        await asyncio.gather(*(turn.task for turn in turns))
        assert limits.budget.spent()[0] == 50
        home.service.check(ask(home, "a"))


def budget(path=None, now_s=(NOON,)):
    return DailyBudget(path, Settings(guests_daily_tokens=250, guests_daily_usd=1.0), lambda: now_s[-1])


@pytest.mark.parametrize("amount", [(250, 0.0), (1, 1.0)], ids=["tokens", "money"])
def test_a_spent_day_is_over_until_midnight(amount):
    now_s = [NOON]
    made = budget(now_s=now_s)
    made.check()
    made.spent(*amount)
    with pytest.raises(errors.BudgetSpent, match="00:00 UTC") as refused:
        made.check()
    assert (refused.value.retry_after_s, refused.value.retryable) == (12 * 3600, False)
    now_s.append(NOON + 12 * 3600)
    made.check()
    now_s.append(NOON)  # a clock that is set back brings nothing back
    with pytest.raises(errors.BudgetSpent):
        made.check()


def test_apps_on_one_folder_and_a_restart_see_the_same_day(data_dir, caplog):
    path = data_dir / "of-the-first-start" / "guests.db"
    one, other = budget(path), budget(path)
    one.spent(200, 0.5)
    assert other.spent(100, 0.25) == (300, 0.75)
    with pytest.raises(errors.BudgetSpent):
        one.check()
    for made in (one, other):
        made.close()
    assert budget(path).spent() == (300, 0.75)
    path.write_bytes(b"no database " * 1000)  # then it is counted in memory, with one warning
    made = budget(path)
    made.spent(250)
    with pytest.raises(errors.BudgetSpent):
        made.check()
    assert len(caplog.records) == 1


def allowance(**values):
    detection = Detection(START, "OPENAI_API_KEY is set.", OPTIONS)
    return Allowance(Settings(**values), SHIPPED, detection, lambda: {SERVER})


def allowed(guests, target, visitor=STRANGER):
    try:
        guests.check(events.TurnRequest(target, {}, visitor=visitor))
    except errors.Forbidden:
        return False
    return True


def test_by_default_every_program_on_the_first_model_and_nothing_that_a_guest_names():
    guests = allowance()
    assert guests.programs == tuple(spec.name for spec in SHIPPED)
    assert allowed(guests, LocalTarget(PROGRAM, START)) and allowed(guests, ServedTarget(SERVER))
    for named in (
        LARGE,
        LMChoice("openai/small"),  # the same model at another address
        LMChoice("openai/small", "http://169.254.169.254/v1", START.api_key),
        LMChoice("openai/small", INNER, SecretStr("sk-typed")),
        LMChoice("local/../../etc/passwd"),
    ):
        assert not allowed(guests, LocalTarget(PROGRAM, named)), named
    for url in ("http://169.254.169.254", "http://127.0.0.1:5002", "http://localhost:5001", f"{SERVER}/x"):
        assert not allowed(guests, ServedTarget(url)), url


def test_what_the_settings_name_binds_guests_and_not_the_owner():
    guests = allowance(guest_programs="react, predict", guest_models="openai/large")
    assert allowed(guests, LocalTarget("react", LARGE))
    for target in (LocalTarget("react", START), LocalTarget(PROGRAM, LARGE)):
        assert not allowed(guests, target)
    assert [spec.name for spec in guests.programs_of(SHIPPED)] == ["predict", "react"]
    assert guests.detection.choice == LMChoice("openai/large", temperature=0.5)
    for target in (LocalTarget("not_listed", LMChoice("any/model", INNER)), ServedTarget("http://10.0.0.1")):
        assert allowed(guests, target, OWNER)
    for values in ({"guest_programs": "nope"}, {"guest_models": "openai/nope"}):
        with pytest.raises(errors.SettingsError, match="nope"):
            allowance(**values)
