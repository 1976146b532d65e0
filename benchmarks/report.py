"""What a scenario found: rows of ours beside a peer's, and how they are printed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

#: A figure of each server, by its name.
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """One figure of ours beside one of a peer; `ratio_max` bounds ours / theirs, `most` ours itself."""

    what: str
    unit: str
    ours: float
    peer: str = ""
    theirs: float | None = None
    ratio_max: float | None = None
    most: float | None = None

    @classmethod
    def beside(cls, what: str, unit: str, figures: Figures, limits: Figures) -> list[Self]:
        """A row for each peer; `limits` has the greatest ratio to some of them."""
        return [
            cls(what, unit, figures["ours"], name, value, ratio_max=limits.get(name))
            for name, value in figures.items()
            if name != "ours"
        ] or [cls(what, unit, figures["ours"])]

    @property
    def ratio(self) -> float | None:
        return None if self.theirs is None else self.ours / max(self.theirs, 1e-9)

    @property
    def met(self) -> bool | None:
        """Whether the limits are kept; None where there is none."""
        if self.ratio_max is not None and self.ratio is not None:
            return self.ratio <= self.ratio_max
        return None if self.most is None else self.ours <= self.most

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio, "met": self.met}


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| what | ours | beside it | ratio | limit |", "|---|---|---|---|---|"]
    for row in rows:
        beside = "" if row.theirs is None else f"{row.peer}: {_figure(row.theirs, row.unit)}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        limit = f"≤ {row.ratio_max:g}×" if row.ratio_max is not None else ""
        limit = f"≤ {row.most:g} {row.unit}".rstrip() if row.most is not None else limit
        verdict = {True: " ✓", False: " missed", None: ""}[row.met]
        lines.append(
            f"| {row.what} | {_figure(row.ours, row.unit)} | {beside} | {ratio} | {limit}{verdict} |"
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
