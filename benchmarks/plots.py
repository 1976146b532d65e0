"""The figures of a run as one picture: what a token costs, beside everybody else."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Row

OURS, THEIRS = "#0f766e", "#94a3b8"
SHOWN = ("CPU per token, one by one", "CPU per token through the page", "click to served answer")


def draw(rows: Sequence[Row], file: Path) -> None:
    """Draw the rows that are `SHOWN` into a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(SHOWN), figsize=(4 * len(SHOWN), 3))
    for axis, what in zip(axes, SHOWN, strict=True):
        beside = [row for row in rows if row.what == what]
        names = ["ours", *(row.peer for row in beside)]
        values = [beside[0].ours, *(row.theirs or 0 for row in beside)]
        axis.barh(names[::-1], values[::-1], color=[*[THEIRS] * len(beside), OURS])
        axis.set(title=what, xlabel=beside[0].unit)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
