"""The answers of the fake upstream, good, odd or broken, and what it was asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Fault = Literal[
    "close_before_headers",  # the connection ends before a byte of the reply
    "silent_before_headers",  # nothing, until the client gives up
    "silent_after_headers",  # 200 and the headers, then nothing
    "stall",  # `after_tokens` tokens, then nothing
    "cut",  # `after_tokens` tokens, then the connection ends in the middle of the body
    "clean_cut",  # `after_tokens` tokens, then an orderly end without [DONE]: a proxy's time-out
    "garbage",  # `after_tokens` tokens, then bytes that are no JSON
    "empty_body",  # 200 with no body at all
    "html",  # 200 with a page instead of JSON: a captive portal, a wrong URL
    "whole",  # the reply as one JSON object, though a stream was asked for
    "open_after_done",  # the whole answer and [DONE], then nothing: the connection stays open
    "error_event",  # `after_tokens` tokens, then `error_body` as an event of the stream, which ends well
]


@dataclass(frozen=True)
class Reply:
    """One answer of the fake. Without `text`, `chunks` and `fields` it answers the prompt by itself.

    Attributes:
        text: The whole content. Lone surrogates (``"\\udcff"``) go out as that raw byte (0xff).
        fields: Values of output fields, written as the request's adapter wants them.
        chunk_chars: Cut the text every so many characters, instead of at words; 0 = one chunk.
        filler_chars: At least so much text in the default answer.
        reasoning_content: A model's own thinking, streamed before the content.
        usage: Token counts; None counts chunks; an empty mapping sends none.
        tokens_per_second: The pace; None is the server's, 0 as fast as possible.
        write_bytes: Bytes per TCP write; 0 is one write per token.
        status: Other than 200 the body is OpenAI's error JSON, or `error_body`.
        retry_after: The header as it is, for a date.
    """

    text: str | None = None
    chunks: Sequence[str] | None = None
    fields: Mapping[str, Any] | None = None
    chunk_chars: int | None = None
    filler_chars: int = 0
    reasoning_content: str = ""
    tool_calls: Sequence[Mapping[str, Any]] = ()
    finish_reason: str | None = None
    usage: Mapping[str, int] | None = None
    first_delay_s: float = 0.0
    tokens_per_second: float | None = None
    write_bytes: int = 0
    fault: Fault | None = None
    after_tokens: int = 0
    status: int = 200
    retry_after_s: float | None = None
    retry_after: str = ""
    error_message: str = ""
    error_body: str = ""

    @property
    def broken(self) -> bool:
        """It ends after some tokens."""
        return self.fault not in {None, "whole", "open_after_done"}

    def ends_at(self, tokens_sent: int) -> bool:
        return self.broken and tokens_sent >= self.after_tokens


@dataclass
class Request:
    """One request as it came over the wire. Header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body) if self.body else {}

    @property
    def api_key(self) -> str:
        """As OpenAI, Anthropic or Gemini take it."""
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
        return bearer or self.headers.get("x-api-key", "") or self.headers.get("x-goog-api-key", "")


@dataclass
class Stream:
    """What happened to one chat completion; `closed_at` is by `time.monotonic()`, None while it is open."""

    request: Request
    reply: Reply
    tokens_sent: int = 0
    closed_at: float | None = None
    client_left: bool = False


def huge_reply(size_bytes: int = 10_000_000, *, chunk_chars: int = 16_000) -> Reply:
    """A right answer, but endless. DSPy's native engine refuses a chunk of more than 64 KiB."""
    return Reply(filler_chars=size_bytes, chunk_chars=chunk_chars)


def tool_reply(name: str, args: Mapping[str, Any], thought: str = "I use a tool.") -> Reply:
    """One step of `dspy.ReAct`; the default reply to the next step is ``finish``."""
    return Reply(fields={"next_thought": thought, "next_tool_name": name, "next_tool_args": dict(args)})


# Every fault of an upstream by its name. "Refused" has no reply: it is `fake_openai.refused_url()`.
FAULTS: dict[str, Reply] = {
    **{str(status): Reply(status=status) for status in (401, 403, 404, 500, 503)},
    "429": Reply(status=429, retry_after_s=7),
    "close_before_headers": Reply(fault="close_before_headers"),
    "silent_before_headers": Reply(fault="silent_before_headers"),
    "silent_after_headers": Reply(fault="silent_after_headers"),
    "stall": Reply(fault="stall", after_tokens=8),
    "cut": Reply(fault="cut", after_tokens=8),
    "clean_cut": Reply(fault="clean_cut", after_tokens=8),
    "garbage": Reply(fault="garbage"),
    "garbage_later": Reply(fault="garbage", after_tokens=8),
    "malformed": Reply(text="I would rather not use your format."),
    "empty": Reply(text=""),
    "empty_body": Reply(fault="empty_body"),
    "html": Reply(fault="html"),
}
# Odd, but every byte of a good answer is there: the turn has to succeed.
ODDITIES: dict[str, Reply] = {
    "huge": huge_reply(),
    "one_byte_at_a_time": Reply(write_bytes=1),
    "one_character_chunks": Reply(chunk_chars=1),
    "one_chunk": Reply(chunk_chars=0),
    "invalid_utf8": Reply(fields={"reasoning": "one \udcff byte", "answer": "bad \udcff byte"}),
    "unicode_split": Reply(
        fields={"reasoning": "π ≈ 3 🙂", "answer": "naïve 日本語 👩‍👩‍👧"}, write_bytes=1, chunk_chars=1
    ),
    "no_usage": Reply(usage={}),
}
