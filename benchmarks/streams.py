"""``/predict/stream`` beside other ways to stream a program: CPU per token, added lag, first token, a crowd.

All peers run at once and are asked in rounds, one after the other, so that what else the machine does meets
them alike. CPU is that of the peer's own processes; the upstream and the clients are others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.load import post, post_many
from benchmarks.report import Measured, Row, median, quantile
from benchmarks.servers import PEERS, Running, all_running
from benchmarks.upstream import Pace, Upstream, upstream
from dspy_demo.settings import Settings

#: Who is measured in a quick run.
FEW = ("ours", "relay")


@dataclass(frozen=True)
class Size:
    """How much work."""

    rounds: int
    bulk: Pace
    bulk_requests: int
    paced: Pace
    paced_streams: int
    first_requests: int
    crowd: int


FULL = Size(2, Pace(2000), 5, Pace(125, 25), 20, 20, 100)
QUICK = Size(1, Pace(200), 1, Pace(10, 50), 2, 2, 5)


@dataclass
class Found:
    """What was measured of one peer, over all rounds."""

    cold_s: float = 0.0
    bulk_us: list[float] = field(default_factory=list)
    paced_us: list[float] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    firsts_s: list[float] = field(default_factory=list)
    crowds_s: list[float] = field(default_factory=list)


async def measure(settings: Settings, *, quick: bool) -> Measured:
    size = QUICK if quick else FULL
    names = FEW if quick else ("ours", *PEERS)
    found: dict[str, Found] = defaultdict(Found)
    with upstream() as server, all_running(names, server) as peers:
        for peer in peers:
            server.pace(Pace())
            found[peer.name].cold_s = (await post(peer.url, peer.body)).first_token_s
            await post_many(peer.url, peer.body, 5)
        before_s, tokens = server.process.cpu_s, 0
        for step in (_bulk, _paced, _first, _crowd):
            for _ in range(size.rounds):
                for peer in peers:
                    tokens += await step(server, peer, size, found[peer.name])
        upstream_us = (server.process.cpu_s - before_s) / tokens * 1e6
    return Measured(_rows(found), {"upstream_us_per_token": upstream_us, "peers": _detail(found)})


async def _bulk(server: Upstream, peer: Running, size: Size, found: Found) -> int:
    """CPU per token where a reply arrives as fast as the socket takes it."""
    server.pace(size.bulk)
    before_s, tokens = peer.process.cpu_s, 0
    for _ in range(size.bulk_requests):
        tokens += (await post(peer.url, peer.body)).tokens
    found.bulk_us.append((peer.process.cpu_s - before_s) / tokens * 1e6)
    return tokens


async def _paced(server: Upstream, peer: Running, size: Size, found: Found) -> int:
    """CPU per token, and each token's age, where tokens come one by one on several streams."""
    server.pace(size.paced)
    before_s = peer.process.cpu_s
    spread_s = 1 / size.paced.per_second
    heard = await post_many(peer.url, peer.body, size.paced_streams, spread_s=spread_s)
    tokens = sum(one.tokens for one in heard)
    found.paced_us.append((peer.process.cpu_s - before_s) / tokens * 1e6)
    # Not the first: it waits for the call to be made, which `_first` measures.
    found.lags_s += [lag for one in heard for lag in one.lags_s[1:]]
    return tokens


async def _first(server: Upstream, peer: Running, size: Size, found: Found) -> int:
    """From a request to its first token, where tokens come one by one as a model's do."""
    server.pace(Pace(tokens=5, per_second=50))
    heard = [await post(peer.url, peer.body) for _ in range(size.first_requests)]
    found.firsts_s += [one.first_token_s for one in heard]
    return sum(one.tokens for one in heard)


async def _crowd(server: Upstream, peer: Running, size: Size, found: Found) -> int:
    """All at once: when the last of them has its first token."""
    server.pace(Pace(tokens=20, per_second=20))
    heard = await post_many(peer.url, peer.body, size.crowd)
    sent_s = min(one.sent_s for one in heard)
    found.crowds_s.append(max(one.first_s or one.ended_s for one in heard) - sent_s)
    return sum(one.tokens for one in heard)


def _rows(found: dict[str, Found]) -> list[Row]:
    ours, relay = found["ours"], found["relay"]
    rows = []
    for name, limit in (("relay", 3.0), ("tutorial", 1 / 3)):
        if peer := found.get(name):
            rows += [
                Row(f"CPU per token, {how}", "µs", mine, name, theirs, ratio_max=limit)
                for how, mine, theirs in (
                    ("in bulk", min(ours.bulk_us), min(peer.bulk_us)),
                    ("one by one", min(ours.paced_us), min(peer.paced_us)),
                )
            ]
    for name, peer in found.items():
        if name not in {"ours", "relay", "tutorial"}:
            rows.append(Row("CPU per token, in bulk", "µs", min(ours.bulk_us), name, min(peer.bulk_us)))
    for share, title in ((0.5, "p50"), (0.99, "p99")):
        mine, theirs = (quantile(one.lags_s, share) * 1e3 for one in (ours, relay))
        rows.append(Row(f"age of a token, {title}", "ms", mine, "relay", theirs, ratio_max=1.5))
    rows.append(Row("first token, cold", "ms", ours.cold_s * 1e3, "relay", relay.cold_s * 1e3))
    mine, theirs = (median(one.firsts_s) * 1e3 for one in (ours, relay))
    rows.append(Row("first token, warm", "ms", mine, "relay", theirs, most=5))
    mine, theirs = (min(one.crowds_s) for one in (ours, relay))
    rows.append(Row("a crowd at once: its last first token", "s", mine, "relay", theirs, ratio_max=1.3))
    return rows


def _detail(found: dict[str, Found]) -> dict[str, Any]:
    return {
        name: {
            "about": PEERS[name].about if name in PEERS else "python app.py, tracing and cache off",
            "bulk_us": _range(one.bulk_us),
            "paced_us": _range(one.paced_us),
            "lag_ms": {share: quantile(one.lags_s, share) * 1e3 for share in (0.5, 0.95, 0.99)},
            "first_cold_ms": one.cold_s * 1e3,
            "first_warm_ms": median(one.firsts_s) * 1e3,
            "crowd_s": _range(one.crowds_s),
        }
        for name, one in found.items()
    }


def _range(values: Sequence[float]) -> dict[str, float]:
    return {"least": min(values), "median": median(values), "most": max(values)}
