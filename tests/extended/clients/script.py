"""What each client script does, and how it tells the test: one JSON object a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

from pydantic import BaseModel

BASE_URL, MODEL = sys.argv[1:3]
QUESTION, SLOW = "I am visitor-7.", "Tell me slowly."
EARLIER = [("user", "I am visitor-7."), ("assistant", "Hello, visitor-7.")]
_PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": _PARAMETERS}}]


class Answer(BaseModel):
    """The answer."""

    answer: str


def chat(question: str, earlier: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    """The messages of a chat in OpenAI's form."""
    return [{"role": role, "content": text} for role, text in [*earlier, ("user", question)]]


def tell(step: str, **what: object) -> None:
    print(json.dumps({"step": step, **what}), flush=True)


def wait() -> None:
    """Until the test has seen what it wants to see; the end of this process would close everything."""
    sys.stdin.readline()
