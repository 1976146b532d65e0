"""What is counted of turns, read back with Prometheus' own parser."""

from __future__ import annotations

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


def test_a_state_is_read_when_somebody_looks_and_no_label_holds_what_somebody_typed():
    metrics, now = Metrics(), ["none"]
    metrics.show_state("model_server", ("none", "ready"), lambda: now[0])
    for now[0] in ("none", "ready"):
        shown = {state: value(metrics, "model_server", state=state) for state in ("none", "ready")}
        assert shown == {"none": now[0] == "none", "ready": now[0] == "ready"}
    for request in (REQUEST, TurnRequest(ServedTarget(f"http://{TYPED}"), {"question": TYPED})):
        metrics.turn_started(request)
        metrics.turn_ended(TurnEnd.of(request, "failed", code="busy", limit="max_turns"))
    assert value(metrics, "limits_hit_total", limit="max_turns") == 2
    assert TYPED not in metrics.exposition()[0].decode()


async def test_each_end_of_a_turn_is_counted_once(data_dir):
    script = {
        "finish": [*scripted_answer("a")[:-1], TurnFinished({"answer": "a"}, Usage(3, 4, cost_usd=0.25))],
        "fail": [TurnStarted("local", "m"), UpstreamTimeout()],
        "end": [TurnStarted("local", "m")],
        "slow": scripted_answer("a b c"),
    }
    backend = ScriptedBackend(lambda request: script[str(request.inputs["question"])], pause_s=0.05)
    async with house(settings_for(data_dir), LMChoice("m"), local=backend) as home:
        for question in ("finish", "finish", "fail", "end", " "):
            await home.ask(question)
        metrics = home.service.observer
        async with home.service.turn(home.request("slow")) as turn:
            await anext(aiter(turn))
            await until(lambda: backend.open_streams)
            assert value(metrics, "active_turns") == 1
            await turn.stop()
    turns = {
        (dict(labels)["outcome"], dict(labels)["code"]): number
        for (name, labels), number in samples(metrics).items()
        if name == "turns_total"
    }
    failed = {("failed", "upstream_timeout"): 1, ("failed", "empty_reply"): 1}
    assert turns == failed | {("finished", ""): 2, ("stopped", ""): 1, ("refused", "invalid_input"): 1}
    local = {"backend": "local"}
    for name, labels, expected in (
        ("tokens_total", local | {"kind": "completion"}, 8),
        ("cost_usd_total", {}, 0.5),
        ("active_turns", {}, 0),
        ("turn_seconds_count", local | {"outcome": "finished"}, 2),
        ("first_token_seconds_bucket", local | {"le": "+Inf"}, 2),
    ):
        assert value(metrics, name, **labels) == expected, name
