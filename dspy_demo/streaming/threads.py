"""Calls from threads that do not know their turn, such as those of a plain `ThreadPoolExecutor`.

DSPy's settings are context variables, and such a thread starts without those of its maker: it has no
model. So the predictors of a program that runs have a callback, which gives the thread the settings of the
turn. While several turns run the same program nothing tells whose thread it is, and the call fails, as it
does without this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self

import dspy
from dspy.utils.callback import BaseCallback

from dspy_demo.lm.chat_lm import call_observer
from dspy_demo.streaming.observer import TurnObserver


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    observer: TurnObserver
    settings: Callable[[], AbstractContextManager[None]]


class _Threads(BaseCallback):
    """The callback, one for all turns of the process. A module is pickled without its callbacks."""

    def __init__(self) -> None:
        self._turns: list[_Turn] = []
        self._open: dict[str, tuple[_Turn, ExitStack]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @contextmanager
    def of(
        self,
        program: dspy.Module,
        observer: TurnObserver,
        settings: Callable[[], AbstractContextManager[None]],
    ) -> Iterator[None]:
        """Know the threads of a turn while it runs."""
        for _, predictor in program.named_predictors():
            if self not in predictor.callbacks:
                predictor.callbacks.append(self)
        turn = _Turn(observer, settings)
        self._turns.append(turn)
        try:
            yield
        finally:
            self._turns.remove(turn)

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if call_observer.get() is not None:
            return
        turns = [turn for turn in self._turns if turn.observer.knows(instance)]
        if len(turns) == 1:
            stack = ExitStack()
            stack.enter_context(turns[0].settings())
            self._open[call_id] = (turns[0], stack)
            turns[0].observer.on_module_start(call_id, instance, inputs)

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        if call_id in self._open:
            turn, stack = self._open.pop(call_id)
            turn.observer.on_module_end(call_id, outputs, exception)
            stack.close()


threads = _Threads()
