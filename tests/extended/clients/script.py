"""What each client script does, and how it tells the test: one JSON object a line."""

import json
import sys

from pydantic import BaseModel

BASE_URL, MODEL = sys.argv[1:3]
QUESTION, SLOW = "I am visitor-7.", "Tell me slowly."
EARLIER = [("user", "I am visitor-7."), ("assistant", "Hello, visitor-7.")]
_PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": _PARAMETERS}}]


class Answer(BaseModel):
    """The answer."""

    answer: str


def weather(city: str) -> str:
    """The weather of a city."""
    raise AssertionError("the program calls its own tools")


def chat(question, earlier):
    """The messages of a chat in OpenAI's form."""
    return [{"role": role, "content": text} for role, text in [*earlier, ("user", question)]]


def tell(step, **what):
    print(json.dumps({"step": step, **what}), flush=True)


def stopped():
    """Wait until the test has seen what it wants to see; the end of this process would close everything."""
    tell("stopped")
    sys.stdin.readline()
