"""What the public link is at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Phase = Literal["off", "opening", "open", "closing", "failed"]
PHASES: tuple[str, ...] = get_args(Phase)


@dataclass(frozen=True, slots=True)
class ShareState:
    """For the page, at any time.

    Attributes:
        step: What is being done, while it opens.
        url: The public link, while it is open.
        since: When it opened. Seconds since 1970, as `expires_at`.
        expires_at: When the share server ends it; None where nobody knows.
        interrupted: The way to the share server is down, and the tunnel program tries to get it back.
        reason: Why it failed, in one sentence.
        log_tail: The last lines of the tunnel program, after a failure of it.
    """

    phase: Phase = "off"
    step: str = ""
    url: str = ""
    since: float = 0.0
    expires_at: float | None = None
    interrupted: bool = False
    reason: str = ""
    log_tail: str = ""

    @property
    def active(self) -> bool:
        """It is open or on the way, so that strangers may come."""
        return self.phase in {"opening", "open", "closing"}
