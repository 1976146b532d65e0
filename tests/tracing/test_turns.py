"""Turns of the chat, traced: the local backend over a real HTTP model, to each end that there is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from dspy_demo.errors import UpstreamCut
from dspy_demo.events import Event, LMChoice, ServedTarget, TurnFinished, TurnRequest, TurnStarted
from dspy_demo.tracing.tracer import Tracer
from dspy_demo.versions.tracking import Tracking
from tests.fake_openai import FAULTS, FakeOpenAI, tool_reply
from tests.scripted_backend import ScriptedBackend
from tests.services import House, house, settings_for

KEY = "sk-planted-in-the-turn-0123456789"


@asynccontextmanager
async def traced(tracer: Tracer, data_dir: Path, fake: FakeOpenAI, **more: Any) -> AsyncIterator[House]:
    choice = LMChoice("openai/fake", fake.url, SecretStr(KEY), temperature=0.5, cache=False)
    async with house(settings_for(data_dir, lm_retries=0), choice, **more) as home:
        home.service.tracer = tracer
        yield home


async def played(home: House, request: TurnRequest) -> Any:
    """A turn that fails."""
    turn = home.service.turn(request)
    async with turn:
        assert [event.kind async for event in turn][-1] == "failed"
    return turn


async def test_react_has_its_model_and_tool_calls_below_the_root(
    fake_openai: FakeOpenAI, data_dir: Path, tracer: Tracer, stored: Callable[[str], Any]
) -> None:
    fake_openai.reply(tool_reply("calculator", {"expression": "6 * 7"}))
    async with traced(tracer, data_dir, fake_openai) as home:
        heard = await home.ask("What is 6 * 7?", program="react")
    assert heard.finished.trace_id
    trace = await asyncio.to_thread(stored, heard.finished.trace_id)
    root, *calls = trace.data.spans
    assert [span.name for span in calls] == ["react", "calculator", "react#2", "extract"]
    assert [span.span_type for span in calls[:2]] == ["CHAT_MODEL", "TOOL"]
    assert all(span.parent_id == root.span_id for span in calls)
    assert (calls[1].inputs, calls[1].outputs) == ({"expression": "6 * 7"}, "42")
    assert calls[0].inputs["messages"][0]["role"] == "system"
    assert "6 * 7" in calls[0].outputs["choices"][0]["message"]["content"]
    assert calls[0].attributes["temperature"] == 0.5
    assert root.outputs["answer"] == heard.finished.outputs["answer"]
    usage = heard.finished.usage
    assert trace.info.token_usage["input_tokens"] == usage.prompt_tokens > 0
    assert trace.info.token_usage["output_tokens"] == usage.completion_tokens > 0
    used = [span.attributes["mlflow.chat.tokenUsage"]["total_tokens"] for span in (calls[0], *calls[2:])]
    assert sum(used) == usage.total_tokens
    assert KEY not in str(trace.to_dict())
    assert fake_openai.url not in str(trace.to_dict())


async def test_a_failed_call_is_a_failed_turn_and_a_refused_request_is_none(
    fake_openai: FakeOpenAI, data_dir: Path, tracer: Tracer, stored: Callable[[str], Any]
) -> None:
    fake_openai.reply(FAULTS["401"], times=2)
    async with traced(tracer, data_dir, fake_openai) as home:
        turn = await played(home, home.request("?"))
        assert (await played(home, home.request(""))).trace_id is None
    trace = await asyncio.to_thread(stored, turn.trace_id or "")
    assert (trace.info.state, trace.info.tags["error"]) == ("ERROR", "upstream_auth")
    lm = trace.data.spans[1]
    assert (lm.status.status_code, lm.status.description) == ("ERROR", "LMAuthError")


async def test_two_visitors_calls_do_not_mix(
    fake_openai: FakeOpenAI, data_dir: Path, tracer: Tracer, stored: Callable[[str], Any]
) -> None:
    async with traced(tracer, data_dir, fake_openai) as home:
        turns = await asyncio.gather(*(home.ask(f"I am visitor-{number:02}") for number in range(8)))
    for number, turn in enumerate(turns):
        trace = await asyncio.to_thread(stored, turn.finished.trace_id or "")
        text = str([span.to_dict() for span in trace.data.spans])
        assert text.count("visitor-") == text.count(f"visitor-{number:02}") > 0
        assert len(trace.data.spans) == 2


async def test_a_served_turn_that_its_server_traces_is_not_written_again(
    fake_openai: FakeOpenAI, data_dir: Path, tracer: Tracer, tracking: Tracking
) -> None:
    """Failed by the server's own word, or finished; but a server that was lost has written nothing."""
    theirs = "tr-" + "b" * 32
    told, lost = UpstreamCut(), UpstreamCut()
    told.from_server = True
    script: list[Event | Exception] = [TurnStarted("served", "models:/d/1", trace_id=theirs), told]
    target = ServedTarget("http://h:1", "models:/d/1")
    request = TurnRequest(target, {"question": "?"}, session_id="written-once")
    async with traced(tracer, data_dir, fake_openai, served=ScriptedBackend(script)) as home:
        assert (await played(home, request)).trace_id == theirs
        script[-1] = TurnFinished({"answer": "4"}, trace_id=theirs)
        assert (await home.run(request)).finished.trace_id == theirs
        script[-1] = lost
        cut = await played(home, request)
        assert cut.trace_id != theirs
    assert await asyncio.to_thread(tracer.flush, 15)
    ours = "metadata.`mlflow.trace.session` = 'written-once'"
    (trace,) = tracking.client.search_traces(locations=[tracking.experiment_id], filter_string=ours)
    assert (trace.info.trace_id, trace.info.state) == (cut.trace_id, "ERROR")
    assert (trace.info.tags["version"], len(trace.data.spans)) == ("models:/d/1", 1)
