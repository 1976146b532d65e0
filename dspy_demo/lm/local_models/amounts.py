"""Amounts of data and time in the unit that a reader needs."""

from __future__ import annotations

_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def size_text(size_bytes: float) -> str:
    """A file's size: ``491 MB``, ``1.12 GB``."""
    for unit, name in _SIZES:
        if size_bytes >= unit:
            amount = size_bytes / unit
            return f"{amount:.{2 if amount < 10 else 0}f} {name}"
    return f"{size_bytes:.0f} bytes"


def speed_text(bytes_per_s: float) -> str:
    """A speed: ``5.2 MB/s``, ``310 kB/s``."""
    return f"{bytes_per_s / 1e6:.1f} MB/s" if bytes_per_s >= 1e6 else f"{bytes_per_s / 1e3:.0f} kB/s"


def time_left_text(seconds: float) -> str:
    """About how long it will still take: ``40 s left``, ``3 min left``, ``1 h 20 min left``."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s left"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min left" if hours else f"{minutes} min left"
