"""Keeps Python's garbage collector away from what stays anyway: the libraries' objects, a million of them.

A full collection looks at each of them, which stops every chat for 0.3 s; and while they are imported it
comes seven times, in vain, and takes half a second of the start.
"""

from __future__ import annotations

import gc


def pause() -> None:
    """Do not collect until `keep_what_is_loaded`; for the time of a start."""
    gc.disable()


def keep_what_is_loaded() -> None:
    """Collect from here on, but never look again at what there is now (`gc.freeze`).

    For the few moments at which something large was imported: garbage in cycles of that moment stays too.
    """
    gc.freeze()
    gc.enable()
