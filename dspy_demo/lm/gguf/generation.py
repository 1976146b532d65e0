"""One reply of a loaded model: the turns that fit, the format as a grammar, the chunks as text."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dspy_demo.errors import UpstreamError
from dspy_demo.lm.gguf.heard import Ended, Failed, Heard, Notice, Text, TooLong
from dspy_demo.lm.gguf.runtime import Chunk, LoadedModel
from dspy_demo.lm.grammar import AskedFormat, Expression, reply_grammar

log = logging.getLogger(__name__)

#: The reply's limit where the user set none. Small models repeat themselves rather than stop.
REPLY_TOKENS = 1024
#: A chat that leaves less room than this for the reply is too long.
REPLY_MIN_TOKENS = 128
READING_KEY = "local-reading"
CONTEXT_KEY = "local-context"

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Question:
    """What the model is asked.

    Attributes:
        messages: OpenAI-style, the system's first.
        asked: The signature and format, where they are known.
        sampling: Options that llama.cpp takes as they are (``temperature``, ``top_p``, ``stop``, ...).
    """

    messages: tuple[Message, ...]
    asked: AskedFormat | None
    max_tokens: int | None
    sampling: dict[str, Any]


def answer(
    model: LoadedModel,
    context_tokens: int,
    question: Question,
    tell: Callable[[Heard], None],
    stopped: Callable[[], bool],
) -> None:
    """Generate the reply to `question` in this thread.

    Args:
        tell: Gets the reply as it is made; last an `Ended`, `TooLong` or `Failed`, unless it was stopped.
        stopped: Asked at each token.
    """
    messages = list(question.messages)
    reply_tokens = min(question.max_tokens or REPLY_TOKENS, context_tokens // 2)
    while not stopped():
        attempt = _Attempt(messages, reply_tokens, question, context_tokens, tell, stopped)
        model.generate(attempt.request, attempt.hear)
        if not attempt.too_long:
            attempt.finish()
            break
        shorter = without_oldest(messages, (context_tokens - reply_tokens) / attempt.prompt_tokens)
        if len(shorter) < len(messages):
            messages = shorter
            continue
        reply_tokens = context_tokens - attempt.prompt_tokens
        if reply_tokens < REPLY_MIN_TOKENS:
            tell(TooLong(attempt.prompt_tokens, context_tokens))
            break
    left_out = len(question.messages) - len(messages)
    if left_out:
        log.info("a chat was longer than the model's context", extra={"left_out": left_out})


def without_oldest(messages: list[Message], kept: float) -> list[Message]:
    """The messages without the oldest turns, about `kept` of their text; the last question always stays.

    A turn is a question and its answer. What the system says stays too.
    """
    head = [message for message in messages[:1] if message["role"] == "system"]
    turns, last = messages[len(head) : -1], messages[-1:]
    too_much = (1 - kept) * sum(len(message["content"]) for message in messages)
    while turns and too_much > 0:
        size = 2 if len(turns) > 1 and turns[1]["role"] == "assistant" else 1
        too_much -= sum(len(message["content"]) for message in turns[:size])
        turns = turns[size:]
    return head + turns + last


class _Attempt:
    """One request to the runtime.

    Attributes:
        too_long: The chat and its reply do not fit into the context. Nothing was generated.
    """

    def __init__(
        self,
        messages: list[Message],
        reply_tokens: int,
        question: Question,
        context_tokens: int,
        tell: Callable[[Heard], None],
        stopped: Callable[[], bool],
    ) -> None:
        self.too_long = False
        self.prompt_tokens = 0
        self._room = context_tokens - reply_tokens
        self._left_out = len(question.messages) - len(messages)
        self._context_tokens = context_tokens
        self._tell, self._stopped = tell, stopped
        self._text: list[str] = []
        self._reason = ""
        self._usage: dict[str, Any] = {}
        self._failure: dict[str, Any] | None = None
        self._reading = False
        asked = question.asked
        self._grammar: Expression | None = (
            reply_grammar(asked.signature, asked.kind, reply_tokens) if asked else None
        )
        self.request = {
            "messages": messages,
            "max_tokens": reply_tokens,
            "return_progress": True,
            "stream_options": {"include_usage": True},
            "chat_template_kwargs": {"enable_thinking": False},
            **question.sampling,
        }
        if self._grammar:
            self.request["grammar"] = self._grammar.grammar()

    def hear(self, chunk: Chunk) -> bool:
        """Take a chunk; True ends the generation."""
        if "error" in chunk:
            self._failed(chunk["error"])
            return True
        self._usage = chunk.get("usage") or self._usage
        if self._stopped():
            return True
        if progress := chunk.get("prompt_progress"):
            return self._progressed(int(progress["total"]), int(progress["processed"]))
        for choice in chunk["choices"]:
            if text := choice["delta"].get("content"):
                self._write(text)
            self._reason = choice["finish_reason"] or self._reason
        return False

    def finish(self) -> None:
        """Complete the text where it was cut, and tell the end."""
        if self._stopped():
            return
        if self._failure is not None:
            self._tell(Failed(UpstreamError("The model on this machine failed to answer. Try again.")))
            return
        cut = self._reason == "length"
        if self._grammar and cut:
            missing = self._grammar.completion("".join(self._text))
            if missing is not None:
                self._write(missing)
        self._has_read()  # also where the reply has no text
        details = self._usage.get("prompt_tokens_details") or {}
        self._tell(
            Ended(
                int(self._usage.get("prompt_tokens", self.prompt_tokens)),
                int(self._usage.get("completion_tokens", 0)),
                int(details.get("cached_tokens", 0)),
                cut,
            )
        )

    def _write(self, text: str) -> None:
        self._has_read()
        self._text.append(text)
        if text:
            self._tell(Text(text))

    def _has_read(self) -> None:
        if self._reading:
            self._reading = False
            self._tell(Notice(f"Read the chat: {self.prompt_tokens:,} tokens", "done", READING_KEY))

    def _progressed(self, total: int, processed: int) -> bool:
        """The chat is being read. How long it is, is known before its first token is."""
        self.prompt_tokens = total
        if total > self._room:
            self.too_long = True
            return True
        if processed == 0 and self._left_out:
            self._tell(
                Notice(
                    f"The chat is longer than this model can read ({self._context_tokens:,} tokens), so its "
                    f"oldest {self._left_out} messages were left out",
                    "info",
                    CONTEXT_KEY,
                )
            )
        elif 0 < processed < total:
            self._reading = True
            self._tell(Notice(f"Reading the chat: {processed:,} of {total:,} tokens", "pending", READING_KEY))
        return False

    def _failed(self, error: dict[str, Any]) -> None:
        if error.get("type") == "exceed_context_size_error":
            self.prompt_tokens = int(error["n_prompt_tokens"])
            self.too_long = True
            return
        log.warning(
            "the runtime refused a request: %s", error.get("type"), extra={"error": error.get("message")}
        )
        self._failure = error
