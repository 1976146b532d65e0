"""The one model that is in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from dspy_demo.errors import ModelSetupError
from dspy_demo.lm.gguf.heard import Heard, Notice
from dspy_demo.lm.gguf.runtime import Load, LoadedModel
from dspy_demo.lm.gguf.shape import free_bytes, gigabytes, read_shape

LOAD_KEY = "local-load"


class Asking(Protocol):
    """Who needs a model, and hears how it is loaded."""

    @property
    def load(self) -> Load: ...

    @property
    def title(self) -> str: ...

    @property
    def tell(self) -> Callable[[Heard], None]: ...


class Memory:
    """Holds a model from the first question to it until another one is asked."""

    def __init__(self) -> None:
        self._held: tuple[Load, LoadedModel] | None = None

    def model(self, asking: Asking) -> LoadedModel:
        """The model that is asked, loaded now unless it is the one in memory.

        Raises:
            ModelSetupError: It cannot be loaded, or not into the memory that is free.
        """
        if self._held is not None and self._held[0] == asking.load:
            return self._held[1]
        self.free()
        needed = read_shape(asking.load.path).needed_bytes(asking.load.context_tokens)
        free = free_bytes()
        sizes = f"about {gigabytes(needed)} of memory" + (f", {gigabytes(free)} are free" if free else "")
        if free is not None and needed > free:
            raise ModelSetupError(
                f"{asking.title} needs {sizes}. Choose a smaller model or a smaller --local-context-tokens."
            )
        asking.tell(Notice(f"Loading {asking.title}: needs {sizes}", "pending", LOAD_KEY))
        began = time.monotonic()
        try:
            model = LoadedModel(asking.load)
        except ModelSetupError:
            asking.tell(Notice(f"{asking.title} could not be loaded", "failed", LOAD_KEY))
            raise
        self._held = (asking.load, model)
        took_s = time.monotonic() - began
        asking.tell(Notice(f"Loaded {asking.title} in {took_s:.1f} s: {sizes}", "done", LOAD_KEY))
        return model

    def free(self) -> None:
        if self._held is not None:
            self._held[1].close()
            self._held = None
