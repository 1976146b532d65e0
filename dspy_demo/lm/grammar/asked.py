"""Which signature and which format a request to a model asks for.

DSPy (3.4) tells an engine neither. But it keeps the adapter and the modules that are calling each other
(``settings.caller_modules``; the last one is the predictor), and an adapter ends its request with a sentence
that names the fields. So the two are looked up, and believed only where that very sentence is in the request:
a program that calls the model by itself, another signature, or an adapter of unknown format gets no grammar
instead of a wrong one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dspy_demo.lm.grammar.reply import AdapterKind

if TYPE_CHECKING:
    import dspy


@dataclass(frozen=True, slots=True)
class AskedFormat:
    """The output fields, and the way in which they are to be written."""

    signature: type[dspy.Signature]
    kind: AdapterKind


def asked_format(last_message: str) -> AskedFormat | None:
    """What the request that ends with `last_message` asks for. Call it where the engine is called."""
    import dspy

    callers = dspy.settings.caller_modules or [None]
    signature = getattr(callers[-1], "signature", None)
    if signature is None:
        return None
    # After a reply that it cannot parse, ChatAdapter asks again by a JSONAdapter.
    for adapter in (dspy.settings.adapter or dspy.ChatAdapter(), dspy.JSONAdapter()):
        kind = _kind(adapter)
        if kind and adapter.user_message_output_requirements(signature) in last_message:
            return AskedFormat(signature, kind)
    return None


def _kind(adapter: dspy.Adapter) -> AdapterKind | None:
    import dspy

    # JSONAdapter and XMLAdapter are ChatAdapters too, so the order matters.
    if isinstance(adapter, dspy.JSONAdapter):
        return "json"
    if isinstance(adapter, dspy.XMLAdapter):
        return "xml"
    return "chat" if isinstance(adapter, dspy.ChatAdapter) else None
