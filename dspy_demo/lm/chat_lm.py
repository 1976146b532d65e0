"""`ChatLM`: a `dspy.LM` whose retries can be seen and whose calls leave no text behind."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any, Protocol

import dspy
from dspy.utils.exceptions import is_retryable_lm_error

from dspy_demo.events import RETRY_KEY, StatusState

#: Where a server asks to wait longer, the error is shown instead.
MAX_RETRY_WAIT_S = 30.0


class CallObserver(Protocol):
    """Who wants to hear of the model calls of a turn."""

    def in_turn(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Future[Any] | None:
        """Make `call` in the event loop of the turn; None where the caller is in that loop's thread."""

    def call_recorded(self, finish_reason: str | None, cost_usd: float | None) -> None: ...
    def call_streamed(self) -> bool: ...
    def call_notice(self, text: str, state: StatusState, key: str) -> None: ...


call_observer: ContextVar[CallObserver | None] = ContextVar("call_observer", default=None)


class ChatLM(dspy.LM):
    """A `dspy.LM` for turns that people watch.

    Retries are ours, since DSPy sleeps between its own without a word: the first waits `retry_wait_s`, each
    further one twice as long, unless the server names its own time. No history is kept, since it holds every
    user's text. ``cache_scope`` keeps servers apart that have a model of the same name: DSPy's cache key
    leaves out where a model is asked, but not ``rollout_id``.
    """

    def __init__(
        self, model: str, *, retries: int, retry_wait_s: float = 1.0, cache_scope: str, **kwargs: Any
    ) -> None:
        super().__init__(model, num_retries=0, **kwargs)
        self._own_engine = kwargs.get("async_engine")
        self.retries, self.retry_wait_s, self.cache_scope = retries, retry_wait_s, cache_scope

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Call the model in the turn's event loop, or in a new thread where there is none or it is ours."""
        if (elsewhere := self._in_turn(prompt, messages, kwargs)) is not None:
            return elsewhere.result()

        async def ask() -> Any:
            try:
                with dspy.context(send_stream=None):
                    return await self._asked(prompt, messages, kwargs)
            finally:
                await self.aclose()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(copy_context().run, asyncio.run, ask()).result()

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Call the model, in the turn's event loop even where the program has started one of its own."""
        if (elsewhere := self._in_turn(prompt, messages, kwargs)) is not None:
            return await asyncio.wrap_future(elsewhere)
        return await self._asked(prompt, messages, kwargs)

    def _in_turn(self, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Future[Any] | None:
        observer = call_observer.get()
        return observer.in_turn(lambda: self.acall(prompt, messages=messages, **kwargs)) if observer else None

    async def _asked(self, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        """Ask, and again after a failure that may pass."""
        observer, failed = call_observer.get(), 0
        while True:
            try:
                with dspy.context(disable_history=False):
                    return await super().acall(prompt, messages=messages, **self._scoped(kwargs))
            except Exception as error:
                wait_s = self._wait_s(error, failed)
                if wait_s is None or (observer and observer.call_streamed()):
                    raise
            failed += 1
            if observer:
                text = f"No answer, retrying in {wait_s:g} s ({failed}/{self.retries})"
                observer.call_notice(text, "info", RETRY_KEY)
            await asyncio.sleep(wait_s)

    def _wait_s(self, error: Exception, failed: int) -> float | None:
        """Seconds to wait before the next attempt, or None where another one makes no sense."""
        if failed >= self.retries or not is_retryable_lm_error(error):
            return None
        hint = getattr(error, "retry_after", None)
        wait_s = float(hint) if hint is not None else self.retry_wait_s * 2**failed
        return wait_s if wait_s <= MAX_RETRY_WAIT_S else None

    def _scoped(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """With the scope in the ``rollout_id``, beside the one of a program such as `dspy.BestOfN`."""
        rollout = kwargs.get("rollout_id", self.kwargs.get("rollout_id"))
        scope = self.cache_scope if rollout is None else f"{self.cache_scope} {rollout}"
        return {**kwargs, "rollout_id": scope} if self.cache_scope else kwargs

    def update_history(self, entry: dict[str, Any]) -> None:
        """Keep no history, but tell the turn of a finished call."""
        observer = call_observer.get()
        if observer is None:
            return
        response = entry.get("response")
        price = getattr(self.engine, "price_usd", None)  # DSPy knows it for engines of its own only
        cost_usd = price(response) if price and entry.get("usage") else entry.get("cost")
        choices = getattr(response, "choices", None) or [response]
        reason = getattr(choices[0], "finish_reason", None)
        observer.call_recorded(reason if isinstance(reason, str) else None, cost_usd)

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await super().aclose()
        if self._own_engine is not None:
            await self._own_engine.aclose()
