"""Whoever comes first is served first: one model in memory, one reply at a time, in one thread."""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from dspy_demo.errors import DemoError
from dspy_demo.lm.gguf.generation import Question, answer
from dspy_demo.lm.gguf.heard import Failed, Heard, Notice
from dspy_demo.lm.gguf.memory import Memory
from dspy_demo.lm.gguf.runtime import Load

LINE_KEY = "local-line"
#: How long the thread may take to end. It ends at the next token.
CLOSING_S = 10.0


@dataclass(eq=False)
class Place:
    """Somebody's place in the line: a question to a model, and who waits for the reply.

    Attributes:
        title: The model's name for people.
        tell: Called in the line's thread; must not block.
    """

    load: Load
    title: str
    question: Question
    tell: Callable[[Heard], None]
    entered_at: float = field(default_factory=time.monotonic)
    _left: threading.Event = field(default_factory=threading.Event)
    _waited: bool = False

    def leave(self) -> None:
        """Nobody waits any more: the reply ends at its next token, or is not begun."""
        self._left.set()

    def has_left(self) -> bool:
        return self._left.is_set()

    def tell_number(self, number: int) -> None:
        self._waited = True
        self.tell(Notice(f"{ordinal(number)} in line for the model on this machine", "pending", LINE_KEY))

    def tell_turn(self) -> None:
        if self._waited:
            waited_s = time.monotonic() - self.entered_at
            self.tell(Notice(f"Waited {waited_s:.0f} s for the model on this machine", "done", LINE_KEY))


class Line:
    """The line. Its thread starts with the first question and has the one model that is in memory."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Place] = deque()
        self._serving: Place | None = None
        self._thread: threading.Thread | None = None

    def enter(self, place: Place) -> None:
        """Take the last place."""
        with self._changed:
            self._waiting.append(place)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="local-model", daemon=True)
                self._thread.start()
            number = len(self._waiting) - self._about_to_be_served()
            if number:
                place.tell_number(number)
            self._changed.notify_all()

    def leave(self, place: Place) -> None:
        """Give the place up, wherever it is. Those behind move up at once."""
        place.leave()
        with self._changed:
            if place in self._waiting:
                self._waiting.remove(place)
                self._tell_numbers()

    def close(self) -> None:
        """End the reply that is running and those that wait, and free the memory. It can be entered again."""
        with self._changed:
            for place in (*self._waiting, *((self._serving,) if self._serving else ())):
                place.leave()
            self._waiting.clear()
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None:
            thread.join(CLOSING_S)

    def _serve(self) -> None:
        memory = Memory()
        while (place := self._next()) is not None:
            try:
                place.tell_turn()
                model = memory.model(place)
                if not place.has_left():
                    answer(model, place.load.context_tokens, place.question, place.tell, place.has_left)
            except Exception as error:
                failure = error if isinstance(error, DemoError) else DemoError()
                if failure is not error:
                    failure.__cause__ = error
                place.tell(Failed(failure))
        memory.free()

    def _next(self) -> Place | None:
        """Who comes next; waits for somebody. None where the line was closed."""
        with self._changed:
            self._serving = None
            while self._thread is threading.current_thread():
                if self._waiting:
                    self._serving = self._waiting.popleft()
                    self._tell_numbers()
                    return self._serving
                self._changed.wait()
            return None

    def _tell_numbers(self) -> None:
        about_to = self._about_to_be_served()
        for number, place in enumerate(list(self._waiting)[about_to:], start=1):
            place.tell_number(number)

    def _about_to_be_served(self) -> int:
        """1 where the thread has yet to wake up for the first in the line, who waits for nobody."""
        return int(self._serving is None and bool(self._waiting))


def ordinal(number: int) -> str:
    """``1st``, ``2nd``, ``11th``."""
    endings = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if 10 <= number % 100 <= 20 else endings.get(number % 10, 'th')}"


_line: Line | None = None
_making = threading.Lock()


def the_line() -> Line:
    """The one line of this process."""
    global _line
    with _making:
        if _line is None:
            _line = Line()
            atexit.register(_line.close)
        return _line


def close_line() -> None:
    """Free the model in memory, if there is one."""
    with _making:
        line = _line
    if line is not None:
        line.close()
