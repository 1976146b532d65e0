"""``/predict/stream`` beside the house before and DSPy's tutorial: CPU, age, first token.

All run at once and are asked in rounds, one after the other, so that what else the machine does meets them
alike. CPU is that of the server's own processes; the upstream and the clients are others.
"""

from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.houses import QUESTION, houses, peer
from benchmarks.load import post, post_many
from benchmarks.processes import Process
from benchmarks.report import Figures, Row, median, quantile
from benchmarks.upstream import Pace, Upstream, upstream

PATH, BODY = "/predict/stream", {"text": QUESTION}


@dataclass
class Found:
    """What was measured of one server, over all rounds."""

    bulk_us: list[float] = field(default_factory=list)
    paced_us: list[float] = field(default_factory=list)
    ages_ms: list[float] = field(default_factory=list)
    firsts_ms: list[float] = field(default_factory=list)


async def measure(before: Path | None, folder: Path, *, quick: bool) -> list[Row]:
    found: dict[str, Found] = defaultdict(Found)
    with upstream() as model, ExitStack() as running:
        servers = {house.name: running.enter_context(house.app(model)) for house in houses(before)}
        servers["tutorial"] = running.enter_context(
            peer("tutorial", "--upstream", model.url, ready_path="/docs")
        )
        for server in servers.values():
            await post_many(server.url + PATH, BODY, 5)
        for _ in range(1 if quick else 3):
            for name, server in servers.items():
                await _round(model, server, found[name], quick=quick)
    figures: list[tuple[str, str, Figures, dict[str, float]]] = [
        ("CPU per token, in bulk", "µs", {n: min(f.bulk_us) for n, f in found.items()}, {"before": 1.5}),
        ("CPU per token, one by one", "µs", {n: min(f.paced_us) for n, f in found.items()}, {"before": 1.5}),
        ("age of a token, p50", "ms", {n: quantile(f.ages_ms, 0.5) for n, f in found.items()}, {}),
        ("age of a token, p99", "ms", {n: quantile(f.ages_ms, 0.99) for n, f in found.items()}, {}),
        ("first token", "ms", {n: median(f.firsts_ms) for n, f in found.items()}, {"before": 1.5}),
    ]
    return [row for what, unit, values, most in figures for row in Row.beside(what, unit, values, most)]


async def _round(model: Upstream, server: Process, found: Found, *, quick: bool) -> None:
    model.pace(Pace(200 if quick else 2000))
    cpu_s, tokens = server.cpu_s, 0
    for _ in range(1 if quick else 5):
        tokens += (await post(server.url + PATH, BODY)).tokens
    found.bulk_us.append((server.cpu_s - cpu_s) / tokens * 1e6)

    model.pace(Pace(10 if quick else 125, 25))
    cpu_s = server.cpu_s
    replies = await post_many(server.url + PATH, BODY, 2 if quick else 20, spread_s=0.04)
    found.paced_us.append((server.cpu_s - cpu_s) / sum(one.tokens for one in replies) * 1e6)
    # The age of a first token is what the call to the model takes, and stands below.
    found.ages_ms += [age * 1e3 for one in replies for age in one.ages_s[1:]]

    model.pace(Pace(5, 50))
    for _ in range(2 if quick else 10):
        found.firsts_ms.append((await post(server.url + PATH, BODY)).first_token_s * 1e3)
