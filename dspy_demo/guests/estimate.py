"""What a turn uses by the look of it: for setting aside, for bounding it, and where nobody counted."""

from __future__ import annotations

from dspy_demo.events import FieldDelta, TurnRequest

#: English has somewhat more bytes in a token, code and other scripts somewhat fewer.
BYTES_PER_TOKEN = 4
#: DSPy's instructions and markers around the inputs (3.4.1): 120 to 200 with the shipped programs, and 780
#: for the agent, which lists its tools.
INSTRUCTION_TOKENS = 400


def tokens_of(size_bytes: int) -> int:
    return -(-size_bytes // BYTES_PER_TOKEN)


class Estimate:
    """Follows a turn's text, which is all that is known of a turn until it has ended well."""

    def __init__(self, request: TurnRequest) -> None:
        texts = [str(value) for value in request.inputs.values()]
        texts += [message.text for message in request.history]
        self.asked_tokens = INSTRUCTION_TOKENS + tokens_of(sum(map(_size, texts)))
        self._streamed_bytes = 0
        self._steps: set[str] = set()

    def hear(self, delta: FieldDelta) -> None:
        """More text: called for every token."""
        self._streamed_bytes += _size(delta.text)
        self._steps.add(delta.step)

    @property
    def streamed_tokens(self) -> int:
        return tokens_of(self._streamed_bytes)

    @property
    def tokens(self) -> int:
        """Input and output so far.

        Each call sends the question again and, as an agent does, what the earlier ones wrote.
        """
        calls = max(1, len(self._steps))
        sent_again = self.streamed_tokens * (calls - 1) // 2
        return calls * self.asked_tokens + sent_again + self.streamed_tokens


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
