"""The chat before the question that is measured, the same for every page."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

PAST_QUESTION, PAST_ANSWER = "What was asked before?", "Something was answered, in about as many words. " * 4


def past_messages(count: int) -> Iterator[tuple[str, str]]:
    """So many (role, text) pairs, user and assistant in turns."""
    return itertools.islice(itertools.cycle((("user", PAST_QUESTION), ("assistant", PAST_ANSWER))), count)
