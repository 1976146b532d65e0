"""The model that a version was logged with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dspy_demo.events import LMChoice
from dspy_demo.versions.confidential import public_url


def logged_choice(noted: Mapping[str, Any] | None, lm: Any) -> LMChoice | None:
    """The model of a version: as this app noted it, else as it is in the pickled settings of DSPy.

    None where it was logged without one. Credentials in a URL that another tool pickled are left out.
    """
    if noted:
        known = ("model", "api_base", "temperature", "max_tokens", "cache")
        return LMChoice(**{name: noted[name] for name in known if noted.get(name) is not None})
    if not getattr(lm, "model", None):
        return None
    given: Mapping[str, Any] = getattr(lm, "kwargs", {})
    base = public_url(given.get("api_base") or given.get("base_url"))
    cache = bool(getattr(lm, "cache", True))
    return LMChoice(str(lm.model), base, None, given.get("temperature"), given.get("max_tokens"), cache)
