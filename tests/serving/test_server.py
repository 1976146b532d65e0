"""``python -m dspy_demo.serving`` as a real process, beside a real ``mlflow models serve``."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import dspy
import pytest

from dspy_demo.errors import VersionNotServable
from dspy_demo.events import FieldDelta, LMChoice, Message
from dspy_demo.programs.own import load_program
from dspy_demo.serving.loading import _of_another_tool
from tests.backends.served_fixtures import LIVE_ENV, start_model_server
from tests.environment import scrubbed
from tests.fake_openai import FAULTS, Reply
from tests.processes import REPO
from tests.services import house
from tests.serving.conftest import QUESTION, heard, in_process

pytestmark = pytest.mark.integration

KEY = "sk-planted-5ca1ab1e"
CASES = Path(__file__).parent.parent / "cases"

LAST = QUESTION["messages"][0]
OLD_MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
    {"role": "assistant", "content": None},
    {"role": "tool", "content": "20"},
]
ALIKE = {
    "a chat": {"messages": [*QUESTION["messages"], {"role": "assistant", "content": "4"}, LAST]},
    "old messages that are not text": {"messages": [*OLD_MESSAGES, LAST]},
    "an OpenAI body": QUESTION | {"model": "gpt", "temperature": 0.3, "max_tokens": 50, "stream": False},
    "inputs": {"inputs": QUESTION},
}


async def test_it_answers_like_mlflow(served_world, client):
    fake, live, plain = served_world.fake, served_world.live.url, served_world.plain.url
    for name, body in ALIKE.items():
        fake.reset()
        fake.reply(fields={"reasoning": "π is “round”", "answer": "4\n\u2028"}, times=2)
        ours = await client.post(f"{live}/invocations", json=body)
        theirs = await client.post(f"{plain}/invocations", json=body)
        assert ours.status_code == theirs.status_code == 200, name
        assert ours.content == theirs.content, name
        assert ours.headers["content-type"] == theirs.headers["content-type"]
        here, there = (request.json["messages"] for request in fake.requests)
        assert here == there, name
    for path in ("/ping", "/health", "/version"):
        ours, theirs = await client.get(live + path), await client.get(plain + path)
        assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content), path


JSON = {"Content-Type": "application/json"}
BAD = {
    "no JSON": {"content": b"{nope", "headers": JSON},
    "a list": {"json": [1]},
    "no messages": {"json": {"messages": []}},
    "the last one is not the user's": {"json": {"messages": [{"role": "assistant", "content": "x"}]}},
    "inputs of nonsense": {"json": {"inputs": [[1, 2], [3]]}},
    "two rows": {"json": {"dataframe_records": [QUESTION, QUESTION]}},
    "CSV": {"content": b"hello,b\n1,2", "headers": {"Content-Type": "text/csv"}},
    "deep": {"content": b"[" * 100_000, "headers": JSON},
    "too long": {"json": {"messages": [{"role": "user", "content": "x" * 30_000}]}},
}


async def test_a_bad_body_is_refused_in_one_sentence(served_world, client):
    for name, body in BAD.items():
        reply = await client.post(f"{served_world.live.url}/invocations", **body)
        assert 400 <= reply.status_code < 500, name
        assert set(reply.json()) >= {"error_code", "message"} and reply.json()["message"].endswith("."), name
        assert not any(leak in reply.text for leak in ("Traceback", "stack_trace", "File \\", "hello")), name
    assert not served_world.fake.requests
    served_world.fake.reply(FAULTS["401"])
    failed = await client.post(f"{served_world.live.url}/invocations", json=QUESTION)
    assert (failed.status_code, failed.json()["code"]) == (502, "upstream_auth")


async def test_calls_run_at_the_same_time_and_end_with_their_client(served_world, client):
    fake, url = served_world.fake, f"{served_world.live.url}/invocations"
    fake.respond_with(lambda _: Reply(tokens_per_second=20, filler_chars=2_000))
    asking = [asyncio.create_task(client.post(url, json=QUESTION)) for _ in range(24)]
    await fake.await_for(lambda: fake.active_streams == 24)  # MLflow has 6 threads on two cores
    for task in asking:
        task.cancel()
    await fake.await_for(lambda: fake.active_streams == 0, 5)


async def test_tokens_arrive_while_the_model_writes_and_the_turn_names_its_trace(served_world):
    fake, sent = served_world.fake, []
    fake.reply(tokens_per_second=10, fields={"reasoning": "one two three", "answer": "a b c d e f"})
    history = (Message("user", "My name is Ada."), Message("assistant", "Hello Ada."))
    request = served_world.request(served_world.live.url, history=history)
    events = await heard(served_world, request, lambda: sent.append(fake.streams[-1].tokens_sent))
    assert len(sent) >= 5 and sent[2] < 12
    deltas = [event for event in events if isinstance(event, FieldDelta)]
    assert [event.channel for event in deltas][:3] == ["reasoning"] * 3
    assert events[-1].trace_id.startswith("tr-")
    assert "Hello Ada." in json.dumps(fake.requests[-1].json["messages"])


async def test_it_tells_what_it_serves(served_world, client):
    live = served_world.live
    info = (await client.get(f"{live.url}/model")).json()
    known = {"lm": "openai/fake", "program": "chain_of_thought", "ready": True, "running": 0}
    assert {name: info[name] for name in known} == known and info["version"] == served_world.version
    assert "/invocations" in (await client.get(f"{live.url}/docs")).text
    assert (await client.get(f"{live.url}/model", headers={"Host": "evil.test"})).status_code == 403
    assert "gradio" not in Path(f"/proc/{live.process.pid}/maps").read_text()


async def test_a_missing_key_is_told_before_the_first_question(loaded_app):
    async with in_process(loaded_app(lm=LMChoice("openai/gpt-4o-mini"))) as client:
        ready = await client.get("/ready")
        reply = await client.post("/invocations", json=QUESTION)
    assert (ready.status_code, "OPENAI_API_KEY" in ready.json()["reason"]) == (503, True)
    assert (reply.status_code, reply.json()["code"]) == (400, "model_setup")


async def test_one_id_leads_from_the_app_to_the_log_of_its_server_which_ends_with_a_last_event(
    served_world, client, caplog
):
    talkative = {"LOG_FORMAT": "json", "LOG_LEVEL": "debug", "SHUTDOWN_GRACE_S": "3"}
    env = {f"DSPY_DEMO_{name}": value for name, value in talkative.items()} | {"OPENAI_API_KEY": KEY}
    fake, version = served_world.fake, served_world.second
    server = start_model_server(version, served_world.settings, served_world.home, env=env)

    def request():
        return served_world.request(server.url, "Why does a zebra crossing have stripes?", version=version)

    fake.reply(FAULTS["429"])
    async with AsyncExitStack() as ends:
        ends.callback(server.stop)
        server.wait_until_healthy("/ping")
        home = await ends.enter_async_context(house(served_world.settings, served=served_world.backend()))
        failed = (await home.run(request())).failed
        (here,) = (r for r in caplog.records if getattr(r, "turn_id", "") == failed.error_id)
        assert (here.backend, here.code, here.message) == ("served", "upstream_rate_limited", "turn failed")
        figures = (await client.get(f"{server.url}/metrics")).text
        assert 'dspy_demo_turns_total{backend="local",code="upstream_rate_limited"' in figures

        # When it is told to stop, a short answer still ends, and a long one is stopped.
        asked, short, late = len(fake.requests), request(), request()
        fake.reply(tokens_per_second=20, fields={"reasoning": "r", "answer": "a b c d e f g h i j"})
        ending = asyncio.create_task(home.run(short))
        await fake.await_for(lambda: len(fake.requests) == asked + 1, 20)
        fake.reply(tokens_per_second=5, filler_chars=5_000)
        running = asyncio.create_task(home.run(late))
        await fake.await_for(lambda: len(fake.requests) == asked + 2, 20)
        server.process.send_signal(signal.SIGTERM)
        assert (await ending).finished
        cut = (await running).failed
        assert cut.code == "stopped" and cut.retryable and "What arrived is kept" in cut.public_message
        assert await asyncio.to_thread(server.process.wait, 15) == 0
    first, *lines = server.log.splitlines()
    assert first == f"Serving {version} at {server.url}"
    by_id = {entry["turn_id"]: entry for entry in map(json.loads, lines) if "turn_id" in entry}
    assert by_id[failed.error_id]["code"] == "upstream_rate_limited"
    assert by_id[short.turn_id]["message"] == "turn finished"
    assert by_id[late.turn_id]["code"] == "stopped"
    assert not any(planted in server.log for planted in (KEY, "zebra", "stripes"))


def test_a_start_that_cannot_be_ends_with_one_sentence(served_world, tmp_path):
    version = served_world.version
    for arguments, env, words in (
        ([version, "--port", "0", "--data-dir", str(tmp_path)], {}, f"MLflow has no version {version}"),
        ([version], {"DSPY_DEMO_MAX_TURNS": "many"}, "DSPY_DEMO_MAX_TURNS"),
    ):
        command = [sys.executable, "-m", "dspy_demo.serving", *arguments]
        env = scrubbed(os.environ, served_world.home) | LIVE_ENV | env
        ended = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, timeout=60)
        output = ended.stdout + ended.stderr
        assert (ended.returncode, output.count("\n"), words in output) == (2, 1, True), output
    assert not list(tmp_path.glob("*.db"))


async def test_a_programs_own_threads_stream_behind_a_server(fake_openai, loaded_app):
    async with in_process(loaded_app(load_program(str(CASES / "parallel.py")))) as client:
        reply = await client.post("/predict/stream", json={"inputs": {"question": "visitor-7?"}})
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: ")]
    *events, end = map(json.loads, lines[:-1])
    drafts = {(step, "draft") for step in ("one", "one#2", "one#3")}
    deltas = {(event["step"], event["field"]) for event in events if event["type"] == "delta"}
    assert deltas == drafts | {("join", "answer")}
    assert "visitor-7" in end["prediction"]["answer"]
    assert end["usage"]["completion_tokens"] == sum(stream.tokens_sent for stream in fake_openai.streams)


async def test_a_cut_reply_and_its_thinking_come_through_a_server(served_world):
    text = "<think>hm</think>[[ ## reasoning ## ]]\nbecause it is"
    served_world.fake.reply(text=text, finish_reason="length")
    *events, end = await heard(served_world, served_world.request(served_world.live.url))
    assert (end.finish_reason, end.outputs) == ("length", {"reasoning": "because it is"})
    deltas = [event for event in events if isinstance(event, FieldDelta)]
    assert "".join(delta.text for delta in deltas if delta.field == "thinking") == "hm"


class Chatty(dspy.Module):
    """As MLflow's documentation writes a chat model."""

    def forward(self, messages: list[dict[str, str]]) -> dict[str, str]:
        return {"role": "assistant", "answer": f"{len(messages)} messages, last: {messages[-1]['content']}"}


async def test_a_version_of_plain_mlflow_is_asked_with_messages():
    lm = dspy.LM("openai/fake", api_base="http://u:p@host/v1", temperature=0.5)
    made = _of_another_tool("models:/theirs/1", Chatty(), lm=lm, adapter=None)
    assert made.lm == LMChoice("openai/fake", "http://host/v1", temperature=0.5)
    history = dspy.History(messages=[{"question": "a", "answer": "b"}])
    result = await made.module.acall(question="c", history=history)
    assert result.answer == "3 messages, last: c"
    with pytest.raises(VersionNotServable, match="without a language model"):
        _of_another_tool("models:/theirs/1", Chatty(), lm=None, adapter=None)
