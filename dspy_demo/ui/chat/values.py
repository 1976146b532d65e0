"""How an output value reads: as text, or as JSON where it has a structure."""

from __future__ import annotations

import json
from typing import Any


def plain_text(value: Any) -> str:
    """Text as it is, anything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else as_json(value)


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)


def is_structure(value: Any) -> bool:
    return isinstance(value, dict | list | tuple)
