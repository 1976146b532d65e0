"""The answers of the fake upstream, good, odd or broken, as OpenAI's JSON."""

import asyncio
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Fault = Literal[
    "close_before_headers",  # the connection ends before a byte of the reply
    "silent_before_headers",  # nothing, until the client gives up
    "stall",  # `after_tokens` tokens, then nothing
    "cut",  # `after_tokens` tokens, then the connection ends in the middle of the body
    "clean_cut",  # `after_tokens` tokens, then an orderly end without [DONE]: a proxy's time-out
    "garbage",  # `after_tokens` tokens, then bytes that are no JSON
    "error_event",  # `after_tokens` tokens, then `error_body` as an event of the stream, which ends well
    "empty_body",  # 200 with no body at all
    "html",  # 200 with a page instead of JSON: a captive portal, a wrong URL
    "whole",  # the reply as one JSON object, though a stream was asked for
    "open_after_done",  # the whole answer and [DONE], then nothing: the connection stays open
]


@dataclass(frozen=True)
class Reply:
    """One answer of the fake. Without `text` and `fields` it answers the prompt by itself."""

    text: str | None = None  #: The whole content; lone surrogates (``"\\udcff"``) go out as that raw byte.
    fields: Mapping[str, Any] | None = None  #: Output fields, written as the request's adapter wants them.
    chunk_chars: int | None = None  #: Cut the text every so many characters, not at words; 0 = one chunk.
    filler_chars: int = 0  #: At least so much text in the default answer.
    reasoning_content: str = ""  #: A model's own thinking, streamed before the content.
    finish_reason: str = "stop"
    usage: Mapping[str, int] | None = None  #: None counts chunks; an empty mapping sends none.
    first_delay_s: float = 0.0
    tokens_per_second: float | None = None  #: None is the server's pace, 0 as fast as possible.
    write_bytes: int = 0  #: Bytes per write; 0 is one write per token.
    fault: Fault | None = None
    after_tokens: int = 0
    status: int = 200  #: Other than 200 the body is OpenAI's error JSON, or `error_body`.
    retry_after: str = ""  #: The header, in seconds or as a date.
    error_message: str = ""
    error_body: str = ""

    @property
    def broken(self):
        return self.fault in {"stall", "cut", "clean_cut", "garbage", "error_event"}


def tool_reply(name, args, thought="I use a tool."):
    """One step of `dspy.ReAct`; the default reply to the next step is ``finish``."""
    return Reply(fields={"next_thought": thought, "next_tool_name": name, "next_tool_args": dict(args)})


#: Every fault of an upstream by its name. "Refused" has no reply: it is `refused_url()`.
FAULTS = {
    **{str(status): Reply(status=status) for status in (401, 403, 404, 500, 503)},
    "429": Reply(status=429, retry_after="7"),
    **{fault: Reply(fault=fault) for fault in ("close_before_headers", "silent_before_headers", "garbage")},
    **{fault: Reply(fault=fault, after_tokens=8) for fault in ("stall", "cut", "clean_cut")},
    "garbage_later": Reply(fault="garbage", after_tokens=8),
    "malformed": Reply(text="I would rather not use your format."),
    "empty": Reply(text=""),
    "empty_body": Reply(fault="empty_body"),
    "html": Reply(fault="html"),
}
#: Odd, but every byte of a good answer is there: the turn has to succeed.
ODDITIES = {
    "huge": Reply(filler_chars=10_000_000, chunk_chars=16_000),
    "one_byte_at_a_time": Reply(write_bytes=1),
    "invalid_utf8": Reply(fields={"reasoning": "one \udcff byte", "answer": "bad \udcff byte"}),
    "unicode_split": Reply(fields={"answer": "naïve 日本語 👩‍👩‍👧 π ≈ 3 🙂"}, write_bytes=1, chunk_chars=1),
    "no_usage": Reply(usage={}),
}

_seeds = itertools.count(1)
_FIELD = {
    "chat": re.compile(r"`\[\[ ## (?!completed)(\w+) ## \]\]`"),
    "json": re.compile(r"(?:order of fields: |then )`(\w+)`"),
}
_TYPE = re.compile(r"^\d+\. `(\w+)` \((.*?)\):", re.MULTILINE)
_MARKER = re.compile(r"\b[A-Za-z]+-\d+\b")


def default_text(request, reply):
    """A right answer to a DSPy prompt; an echo to any other.

    Each text field says its own name, every marker of the question (a word like ``visitor-123``) and a number
    that no other reply has.
    """
    texts = [_plain(message.get("content")) for message in request.get("messages") or [{}]]
    question, _, reminder = texts[-1].rpartition("Respond with ")
    adapter = "json" if reminder.startswith("a JSON object") else "chat"
    names = _FIELD[adapter].findall(reminder.partition(" Use this nested")[0])
    question = question if names else texts[-1]
    says = " ".join([*dict.fromkeys(_MARKER.findall(question)), f"reply-{next(_seeds)}"])
    padding = " filler" * -(-reply.filler_chars // 7)
    if not names:
        return f"You said: {question.strip()} ({says}){padding}"
    types, given = dict(_TYPE.findall("\n".join(texts))), reply.fields or {}
    default = f"for {says}{padding}"
    values = {n: given.get(n, _value(types.get(n, "str"), f"The {n} {default}")) for n in names}
    if adapter == "json":
        return json.dumps(values, ensure_ascii=False)
    texts = {n: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for n, v in values.items()}
    sections = [f"[[ ## {name} ## ]]\n{text}\n\n" for name, text in texts.items()]
    return "".join([*sections, "[[ ## completed ## ]]\n"])


def _plain(content):
    parts = content if isinstance(content, list) else [{"text": content or ""}]
    return "\n".join(part.get("text", "") for part in parts)


def _value(annotation, text):
    """A value of the type that the prompt names; ReAct's next tool is ``finish``."""
    if options := re.findall(r"'([^']*)'", annotation) if annotation.startswith("Literal") else []:
        return "finish" if "finish" in options else options[0]
    kinds = {"int": 4, "float": 0.5, "bool": True, "list[str": [text], "list": [], "dict": {}}
    return next((value for prefix, value in kinds.items() if annotation.startswith(prefix)), text)


def words(text):
    """Word-sized tokens, each with the white space before it."""
    return re.findall(r"\s*\S+|\s+\Z", text)


class Completion:
    """The JSON of one chat completion, whole or as the events of a stream."""

    def __init__(self, body, reply):
        self.reply, self.streaming = reply, bool(body.get("stream"))
        text = default_text(body, reply) if reply.text is None else reply.text
        size = len(text) if reply.chunk_chars == 0 else reply.chunk_chars
        pieces = [text[at : at + size] for at in range(0, len(text), size)] if size else words(text)
        self._reasoning, self._content = words(reply.reasoning_content), pieces
        self._common = {"id": f"chatcmpl-{id(self):x}", "created": 1, "model": body.get("model", "fake")}
        prompt = sum(len(str(m.get("content") or "").split()) for m in body.get("messages", []))
        usage = {"prompt_tokens": prompt, "completion_tokens": len(self._reasoning) + len(pieces)}
        usage = usage if reply.usage is None else dict(reply.usage)
        self._usage = {"usage": {"total_tokens": sum(usage.values())} | usage} if usage else {}

    def event(self, delta, finish_reason=None):
        return self._sse(choices=[{"index": 0, "delta": delta, "finish_reason": finish_reason}])

    def last_events(self):
        usage = self._sse(choices=[], **self._usage) if self._usage else b""
        return self.event({}, self.reply.finish_reason) + usage

    def whole(self):
        message = {"role": "assistant", "content": "".join(self._content)}
        message |= {"reasoning_content": "".join(self._reasoning)} if self._reasoning else {}
        choice = {"index": 0, "message": message, "finish_reason": self.reply.finish_reason}
        return to_json(self._common | {"object": "chat.completion", "choices": [choice]} | self._usage)

    def _sse(self, **content):
        return b"data: " + to_json(self._common | {"object": "chat.completion.chunk"} | content) + b"\n\n"

    async def tokens(self):
        """Each token when it is due."""
        loop = asyncio.get_running_loop()
        due, pace = loop.time() + self.reply.first_delay_s, self.reply.tokens_per_second
        kinds = (("reasoning_content", self._reasoning), ("content", self._content))
        for kind, text in ((kind, text) for kind, texts in kinds for text in texts):
            if (wait_s := due - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            yield kind, text
            due += 1 / pace if pace else 0.0


def to_json(value):
    """JSON with its text as raw UTF-8; a lone surrogate becomes the raw byte that it stands for."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
