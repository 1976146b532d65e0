"""What is counted of turns, read back with Prometheus' own parser."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dspy_demo.errors import UpstreamTimeout
from dspy_demo.events import (
    LMChoice,
    LocalTarget,
    ServedTarget,
    TurnFinished,
    TurnRequest,
    TurnStarted,
    Usage,
)
from dspy_demo.metrics import Metrics, TurnEnd
from tests.scripted_backend import ScriptedBackend, scripted_answer
from tests.services import house, settings_for, until

TYPED = "what somebody typed"
REQUEST = TurnRequest(LocalTarget("qa", LMChoice(TYPED)), {"question": TYPED})


def samples(metrics: Metrics) -> dict[tuple[str, frozenset], float]:
    """Every sample by its name and labels."""
    text, content_type = metrics.exposition()
    assert content_type.startswith("text/plain; version=0.0.4")
    return {
        (sample.name.removeprefix("dspy_demo_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics).get((name, frozenset(labels.items())), 0.0)


def test_a_turn_counts_once_with_its_times_tokens_and_cost_and_a_refused_one_never_ran() -> None:
    metrics, usage = Metrics(), Usage(100, 20, cost_usd=0.5)
    metrics.turn_ended(TurnEnd.of(REQUEST, "refused", code="busy", limit="max_turns"))
    metrics.turn_started(REQUEST)
    assert value(metrics, "active_turns") == 1
    metrics.turn_ended(TurnEnd.of(REQUEST, "finished", usage=usage, first_delta_s=0.3, elapsed_s=3.0))
    for name, labels, expected in (
        ("active_turns", {}, 0),
        ("turns_total", {"backend": "local", "outcome": "finished", "code": ""}, 1),
        ("turns_total", {"backend": "local", "outcome": "refused", "code": "busy"}, 1),
        ("limits_hit_total", {"limit": "max_turns"}, 1),
        ("tokens_total", {"backend": "local", "kind": "prompt"}, 100),
        ("tokens_total", {"backend": "local", "kind": "completion"}, 20),
        ("cost_usd_total", {}, 0.5),
        ("first_token_seconds_bucket", {"backend": "local", "le": "0.25"}, 0),
        ("first_token_seconds_bucket", {"backend": "local", "le": "0.5"}, 1),
        ("turn_seconds_sum", {"backend": "local", "outcome": "finished"}, 3),
    ):
        assert value(metrics, name, **labels) == expected, name


def test_a_state_is_read_when_somebody_looks() -> None:
    metrics, now = Metrics(), ["none"]
    metrics.show_state("model_server", "Its state.", ("none", "ready"), lambda: now[0])
    for state in ("none", "ready"):
        now[0] = state
        assert [value(metrics, "model_server", state=name) for name in ("none", "ready")] == [
            state == "none",
            state == "ready",
        ]


def test_no_label_holds_what_somebody_typed() -> None:
    metrics = Metrics()
    for request in (REQUEST, TurnRequest(ServedTarget(f"http://{TYPED}"), {"question": TYPED})):
        metrics.turn_started(request)
        metrics.turn_ended(TurnEnd.of(request, "failed", code="upstream"))
    assert TYPED not in metrics.exposition()[0].decode()


async def test_each_end_of_a_turn_is_counted_once(data_dir: Path) -> None:
    finished = [*scripted_answer("a")[:-1], TurnFinished({"answer": "a"}, Usage(3, 4, cost_usd=0.25))]
    script = {
        "finish": finished,
        "fail": [TurnStarted("local", "m"), UpstreamTimeout()],
        "end": [TurnStarted("local", "m")],
    }
    backend = ScriptedBackend(lambda request: script[str(request.inputs["question"])])
    async with house(settings_for(data_dir), LMChoice("m"), local=backend) as home:
        for question in ("finish", "finish", "fail", "end", " "):
            await home.ask(question)
        metrics = home.service.observer
    turns = {
        dict(labels)["code"]: n for (name, labels), n in samples(metrics).items() if name == "turns_total"
    }
    assert turns == {"": 2, "upstream_timeout": 1, "empty_reply": 1, "invalid_input": 1}
    assert value(metrics, "tokens_total", backend="local", kind="completion") == 8
    assert value(metrics, "cost_usd_total") == 0.5
    assert value(metrics, "active_turns") == 0


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_a_stopped_turn_is_counted_once(data_dir: Path, how: str) -> None:
    backend = ScriptedBackend(scripted_answer("a b c"), pause_s=0.2)
    async with house(settings_for(data_dir), LMChoice("m"), local=backend) as home:
        metrics, turn = home.service.observer, home.service.turn(home.request("?"))

        async def watch() -> None:
            async with turn:
                async for _ in turn:
                    pass

        watching = asyncio.create_task(watch())
        await until(lambda: backend.open_streams)
        assert value(metrics, "active_turns") == 1
        if how == "stop":
            await turn.stop()
        else:
            watching.cancel()
        await asyncio.wait({watching})
    assert value(metrics, "turns_total", backend="local", outcome="stopped", code="") == 1
    assert value(metrics, "active_turns") == 0
