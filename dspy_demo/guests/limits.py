"""The limits of guests' turns, as `chat.ChatService` asks for them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from dspy_demo.events import TurnRequest, Visitor
from dspy_demo.guests.budget import DailyBudget
from dspy_demo.guests.line import Line
from dspy_demo.guests.rate import RateWindow
from dspy_demo.guests.seat import Seat
from dspy_demo.guests.spending_file import SpendingFile
from dspy_demo.settings import Settings

log = logging.getLogger(__name__)

#: Turns that end within this time are written together.
SAVE_AFTER_S = 1.0


class GuestLimits:
    """What guests may use, one by one and all together. The owner passes.

    Args:
        file: Keeps the day's spending; None for memory only.
        clock: Seconds, monotonic.
        wall_clock: Seconds since the epoch.

    Attributes:
        hits: How often each limit was met, by the error's code.
    """

    def __init__(
        self,
        settings: Settings,
        file: SpendingFile | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.rate = RateWindow(settings.guest_turns_per_minute, settings.guests_turns_per_minute)
        # An answer gets a thumb, and a comment to it.
        self.ratings = RateWindow(
            2 * settings.guest_turns_per_minute,
            2 * settings.guests_turns_per_minute,
            "You are rating faster than",
        )
        self.line = Line(
            places=min(settings.guests_concurrent_turns, max(1, settings.max_turns - 1)),
            places_per_guest=settings.guest_concurrent_turns,
            waiting_max=settings.guests_queue_turns,
        )
        self.budget = DailyBudget(
            settings.guest_daily_tokens,
            settings.guests_daily_tokens,
            settings.guests_daily_usd,
            clock=wall_clock,
            spent=file.read() if file else None,
        )
        #: The highest price of a token seen for a model, for turns whose price nobody tells.
        self.usd_per_token: dict[str, float] = {}
        self._file = file
        self._saving: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._warned = False

    def input_max_chars(self, visitor: Visitor) -> int:
        """The longest input of a turn, in characters."""
        most = self.settings.input_max_chars
        return most if visitor.role == "owner" else min(most, self.settings.guest_input_max_chars)

    def check(self, request: TurnRequest) -> None:
        """Refuse a turn that could not begin now. It counts as none.

        Raises:
            BudgetSpent: The day's budget is used up.
            RateLimited: Too many turns in a minute.
            LineFull: The turn could neither run nor wait.
        """
        guest = request.visitor.name
        if request.visitor.role == "owner":
            return
        self.budget.check(guest)
        self.rate.check(guest, self.clock())
        self.line.check(guest)

    def enter(self, request: TurnRequest) -> Seat | None:
        """A place for a turn, perhaps in line; None for the owner, who needs none.

        Raises:
            Busy: See `check`.
        """
        if request.visitor.role == "owner":
            return None
        self.check(request)
        self.rate.count(request.visitor.name, self.clock())
        return Seat(self, request, self.line.enter(request.visitor.name))

    def count_rating(self, visitor: Visitor) -> None:
        """A visitor rates an answer.

        Raises:
            RateLimited: Too often, or too many do.
        """
        if visitor.role != "owner":
            self.ratings.check(visitor.name, self.clock())
            self.ratings.count(visitor.name, self.clock())

    # The day's spending, on disk

    def save_soon(self) -> None:
        """Write what was spent within a second, off the event loop."""
        if self._file is not None and (self._saving is None or self._saving.done()):
            self._saving = asyncio.create_task(self._save(self._file), name="guest-spending")

    async def aclose(self) -> None:
        """Write what is not written yet."""
        self._closing.set()
        if self._saving is not None:
            await self._saving

    async def _save(self, file: SpendingFile) -> None:
        while self.budget.unsaved.guests:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), SAVE_AFTER_S)
            unsaved = self.budget.take_unsaved()
            try:
                self.budget.saw(await asyncio.to_thread(file.add, unsaved))
            except OSError as error:
                self.budget.give_back(unsaved)
                self._warn(error)
                return

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "the day's spending of guests cannot be written, so a restart forgets it: %s", error.strerror
            )
