"""Figures of a run as plots: a bar for each peer, and how age and memory grow with the number of chats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

OURS, THEIRS = "#0f766e", "#94a3b8"
PAGES = {"ours": OURS, "gr.ChatInterface": THEIRS, "Chainlit": "#d97706"}


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what `results` has into PNG files in `folder`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, plot in (("streams", _streams), ("page", _page), ("live_chats", _live_chats)):
        if name in results:
            figure = plot(pyplot, results[name]["detail"])
            figure.tight_layout()
            drawn.append(folder / f"{name}.png")
            figure.savefig(drawn[-1], dpi=120)
            pyplot.close(figure)
    return drawn


def _streams(pyplot: Any, detail: dict[str, Any]) -> Any:
    """CPU per token of every way to stream."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), sharey=True)
    peers = sorted(detail["peers"].items(), key=lambda item: item[1]["bulk_us"]["least"], reverse=True)
    colors = [OURS if name == "ours" else THEIRS for name, _ in peers]
    for axis, key, title in (
        (axes[0], "bulk_us", "in bulk, as fast as the socket takes it"),
        (axes[1], "paced_us", "one by one, 20 streams of 25 a second"),
    ):
        axis.barh([name for name, _ in peers], [one[key]["least"] for _, one in peers], color=colors)
        axis.set(title=title, xlabel="µs of CPU per token")
    return figure


def _page(pyplot: Any, detail: dict[str, float]) -> Any:
    """CPU per token through the page, by the messages before."""
    figure, axis = pyplot.subplots(figsize=(6, 4))
    series: dict[str, list[tuple[int, float]]] = {}
    for key, cpu_ms in detail.items():
        name, _, length = key.partition(", ")
        series.setdefault(name, []).append((int(length.split()[0]), cpu_ms))
    for name, points in series.items():
        axis.plot(*zip(*points, strict=True), "o-", label=name, color=PAGES[name])
    axis.set(xlabel="messages in the chat before", ylabel="ms of CPU per token", yscale="log")
    axis.legend()
    return figure


def _live_chats(pyplot: Any, detail: dict[str, Any]) -> Any:
    """Age of a token and memory at 3 tokens a second: by the number of chats, and by the messages before."""
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 8))
    ages = detail["ages"]
    pages, routes = ("chats", "pages", OURS), ("routes", "the plain SSE route", THEIRS)
    for row, label, scale, lines in (
        (axes[0], "chats at once", "log", (pages, routes)),
        (axes[1], "messages before, in each of 30 chats", "linear", (("history", "pages", OURS),)),
    ):
        for key, name, color in lines:
            counts = sorted(ages[key], key=int)
            for axis, figures in (
                (row[0], [ages[key][count]["p95_ms"] for count in counts]),
                (row[1], [ages[key][count]["memory_bytes"] / 1e6 for count in counts]),
            ):
                axis.plot([int(count) for count in counts], figures, "o-", label=name, color=color)
        row[0].set(xlabel=label, ylabel="age of a token, p95, ms", yscale=scale)
        row[1].set(xlabel=label, ylabel="memory of the app, MB")
        for axis in row:
            if axis.get_yscale() == "linear":
                axis.set_ylim(0, 1.2 * axis.dataLim.ymax)
        row[0].legend()
    return figure
