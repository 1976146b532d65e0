"""How long ago, and how long: in the one unit that a reader needs."""

from __future__ import annotations

_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))


def ago(seconds: float) -> str:
    """The age of something: ``just now``, ``3 min ago``, ``2 d ago``."""
    return "just now" if seconds < 60 else f"{lasting(seconds)} ago"


def lasting(seconds: float) -> str:
    """A duration that is shown while it grows, so without seconds: it would change with every look."""
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "less than 1 min"
