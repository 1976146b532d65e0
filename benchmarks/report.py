"""What a scenario found: rows of ours beside a peer's, and how they are printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One figure of ours beside one of a peer.

    Attributes:
        what: What was measured, on which work.
        beside: The peer, or empty where the figure stands alone.
        ratio_max: The target for ours / theirs.
        most: The target for ours, in its own unit.
    """

    what: str
    unit: str
    ours: float
    beside: str = ""
    theirs: float | None = None
    ratio_max: float | None = None
    most: float | None = None

    @property
    def ratio(self) -> float | None:
        return None if self.theirs is None else self.ours / max(self.theirs, 1e-9)

    @property
    def met(self) -> bool | None:
        """Whether the targets are met; None where there is none."""
        told = []
        if self.ratio_max is not None and self.ratio is not None:
            told.append(self.ratio <= self.ratio_max)
        if self.most is not None:
            told.append(self.ours <= self.most)
        return all(told) if told else None

    @property
    def target(self) -> str:
        wanted = []
        if self.ratio_max is not None:
            wanted.append(f"≤ {self.ratio_max:g}×")
        if self.most is not None:
            wanted.append(f"≤ {self.most:g} {self.unit}".rstrip())
        return ", ".join(wanted)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio, "met": self.met}


@dataclass
class Measured:
    """The rows for the table, and everything else that was measured on the way."""

    rows: list[Row] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| what | ours | beside it | ratio | target |", "|---|---|---|---|---|"]
    for row in rows:
        beside = f"{row.beside}: {_figure(row.theirs, row.unit)}" if row.theirs is not None else row.beside
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        verdict = {True: " ✓", False: " missed", None: ""}[row.met]
        lines.append(
            f"| {row.what} | {_figure(row.ours, row.unit)} | {beside} | {ratio} | {row.target}{verdict} |"
        )
    return "\n".join(lines)


def _figure(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}".rstrip() if abs(value) < 1000 else f"{value:,.0f} {unit}".rstrip()


def median(values: Sequence[float]) -> float:
    return quantile(values, 0.5)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
