"""What a turn is: a request that becomes a stream of events, whoever runs it. All times are in seconds."""

from __future__ import annotations

import dataclasses
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import SecretStr

Role = Literal["user", "assistant"]
Channel = Literal["reasoning", "answer", "tool"]
StatusState = Literal["info", "pending", "done", "failed"]
#: How the reply ended: by itself, at the token limit, or cut by the provider's filter.
FinishReason = Literal["stop", "length", "content_filter"]


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks: the owner, who started the app, or a guest, who is anyone else."""

    role: Literal["owner", "guest"]
    name: str  #: The same for all that one browser or token asks; no secret and nobody's name.


#: Who asks where nothing else is known: the one who may do least.
GUEST = Visitor("guest", "")
#: The key of the status line of a turn that waits in line, and of a model call that is tried again.
QUEUE_KEY, RETRY_KEY = "queue", "retry"


@dataclass(frozen=True, slots=True)
class Message:
    """One earlier message of the chat: plain text, as the program's history will hold it."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class LMChoice:
    """A language model as a user chooses it; None stands for the provider's default."""

    model: str  #: A DSPy model string such as ``openai/gpt-4o-mini``.
    api_base: str | None = None
    api_key: SecretStr | None = None  #: Stays in memory.
    temperature: float | None = None
    max_tokens: int | None = None  #: Of the output of one call.
    cache: bool = True


@dataclass(frozen=True, slots=True)
class LocalTarget:
    """Run the program `program` (its name in the registry) in this process."""

    program: str
    lm: LMChoice

    @property
    def model(self) -> str:
        return self.lm.model


@dataclass(frozen=True, slots=True)
class ServedTarget:
    """Ask the model server at `url`. Where another version or process answers there, it is refused."""

    url: str
    version: str | None = None  #: The MLflow URI that it serves.
    max_tokens: int | None = None  #: Of the output of one call; None for the version's own.
    instance: str = ""  #: The very process that is meant, where this app started it.
    cache: bool = True

    @property
    def model(self) -> str:
        """The version, or host and port of the server, without a user and password before them."""
        return self.version or re.split(r"[/?#]", self.url.partition("://")[2])[0].rpartition("@")[2]


#: The header by which a turn keeps its id on its way through servers of ours.
TURN_ID_HEADER = "X-Turn-Id"
#: It goes into logs, traces and headers as it is.
TURN_ID = re.compile(r"[0-9a-f]{8,32}")


def new_turn_id() -> str:
    """Short, since people read it from the page into a search of the log."""
    return secrets.token_hex(4)


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """One question to one backend."""

    target: LocalTarget | ServedTarget
    inputs: Mapping[str, Any]  #: The program's input fields by name, without the history.
    history: tuple[Message, ...] = ()  #: Earlier messages of this chat, oldest first.
    session_id: str = ""  #: The visitor's chat, for tracing. Never a secret.
    turn_id: str = field(default_factory=new_turn_id)
    visitor: Visitor = GUEST


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and money of a turn, over all its model calls."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None  #: None where a price is unknown.
    cached: bool = False  #: Every call was answered from the cache, so that no token was paid for.

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The turn runs, on ``local`` or ``served``. Always first, but for a `Status` while it waits in line."""

    backend: str
    model: str
    incremental: bool = True  #: False where the answer comes whole (a plain ``mlflow models serve``).
    trace_id: str | None = None
    kind: Literal["started"] = "started"


@dataclass(frozen=True, slots=True)
class Status:
    """A tool call, a retry, the place in line. Events with the same `key` are one line that changes."""

    text: str
    state: StatusState = "info"
    key: str = ""
    kind: Literal["status"] = "status"


@dataclass(frozen=True, slots=True)
class FieldDelta:
    """More text of one output field: an increment, never cumulative."""

    field: str
    channel: Channel
    text: str
    step: str = ""  #: The predictor call it comes from (``react``, ``react#2``): two may have the same field.
    kind: Literal["delta"] = "delta"


@dataclass(frozen=True, slots=True)
class TurnFinished:
    """Last, when all went well. `outputs` replace what the deltas accumulated."""

    outputs: Mapping[str, Any]  #: Ready for JSON; of a reply that was cut some may be missing.
    usage: Usage = Usage()
    first_delta_s: float | None = None
    elapsed_s: float = 0.0
    trace_id: str | None = None
    finish_reason: FinishReason = "stop"
    kind: Literal["finished"] = "finished"


@dataclass(frozen=True, slots=True)
class TurnFailed:
    """Last, when something failed: the fields of `errors.DemoError` that a user may see."""

    code: str
    public_message: str
    retryable: bool
    http_status: int = 500
    error_id: str = ""
    retry_after_s: float | None = None
    kind: Literal["failed"] = "failed"


Event = TurnStarted | Status | FieldDelta | TurnFinished | TurnFailed

#: By their types in the JSON of ``POST /predict/stream``, by which another process runs a turn.
_CLASSES: Mapping[str, Any] = {
    "started": TurnStarted,
    "status": Status,
    "delta": FieldDelta,
    "final": TurnFinished,
    "error": TurnFailed,
}
#: What that JSON calls otherwise than Python.
_WIRE_NAMES = {"finished": "final", "failed": "error", "outputs": "prediction", "public_message": "message"}
#: How its values are read, by the names of their fields; a newer server may say more than we know.
_READ: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("backend", "model", "text", "key", "field", "step"), str),
    **dict.fromkeys(("first_delta_s", "elapsed_s"), float),
    "outputs": dict,
    "usage": lambda wire: Usage(**{name: wire[name] for name in Usage.__slots__ if name in wire}),
    "channel": lambda wire: wire if wire in get_args(Channel) else "reasoning",
    "state": lambda wire: wire if wire in get_args(StatusState) else "info",
}


def to_wire(event: Event) -> dict[str, Any]:
    """The JSON object of an event on ``POST /predict/stream``."""
    wire: dict[str, Any] = {"type": _WIRE_NAMES.get(event.kind, event.kind)}
    wire |= {_WIRE_NAMES.get(name, name): getattr(event, name) for name in event.__slots__ if name != "kind"}
    if isinstance(event, TurnFinished):
        wire["usage"] = dataclasses.asdict(event.usage) | {"total_tokens": event.usage.total_tokens}
    return wire


def error_body(failed: TurnFailed) -> dict[str, Any]:
    """The JSON of an error where it is the whole answer."""
    wire = to_wire(failed)
    return {"status": "error"} | {key: wire[key] for key in ("code", "message", "retryable", "error_id")}


def event_from_wire(data: Mapping[str, Any]) -> Event | None:
    """The event of a JSON object, or None for a type that we do not know."""
    made = _CLASSES.get(data["type"])
    if made is None:
        return None
    values = {}
    for name in made.__slots__:
        value = data.get(_WIRE_NAMES.get(name, name))
        if value is not None and name != "kind":
            values[name] = _READ[name](value) if name in _READ else value
    event: Event = made(**values)
    return event


def failed_from(error: Any) -> TurnFailed:
    """The terminal event of a `DemoError`."""
    return TurnFailed(**{name: getattr(error, name) for name in TurnFailed.__slots__ if name != "kind"})
