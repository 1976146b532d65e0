"""Calls from threads that do not know their turn, such as those of a plain `ThreadPoolExecutor`.

DSPy's settings are context variables, and such a thread starts without those of its maker: it has no
model. So the predictors of a program that runs have a callback, which gives the thread the settings of the
turn. While several turns run the same program nothing tells whose thread it is, and the call fails, as it
does without this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import dspy

from dspy_demo.dspy_bridge import ModuleCallback
from dspy_demo.lm.chat_lm import call_observer
from dspy_demo.streaming.observer import TurnObserver

Settings = Callable[[], AbstractContextManager[None]]


class _Threads(ModuleCallback):
    """The callback, one for all turns of the process."""

    def __init__(self) -> None:
        self._turns: dict[TurnObserver, Settings] = {}
        self._open: dict[str, ExitStack] = {}

    @contextmanager
    def of(self, program: dspy.Module, observer: TurnObserver, settings: Settings) -> Iterator[None]:
        """Know the threads of a turn while it runs."""
        self.hear(program)
        self._turns[observer] = settings
        try:
            yield
        finally:
            del self._turns[observer]

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if call_observer.get() is not None:
            return
        turns = [turn for turn in list(self._turns.items()) if turn[0].knows(instance)]
        if len(turns) == 1:
            ((observer, settings),) = turns
            stack = self._open[call_id] = ExitStack()
            stack.enter_context(settings())
            observer.on_module_start(call_id, instance, inputs)
            stack.callback(observer.on_module_end, call_id, None)

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self._open.pop(call_id, ExitStack()).close()


threads = _Threads()
