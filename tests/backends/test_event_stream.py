from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_demo.backends import served
from dspy_demo.backends.served import event_data
from dspy_demo.errors import ReplyTooLong


async def parsed(*chunks: bytes) -> list[bytes]:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return [data async for data in event_data(stream())]


LINE = st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"]), max_size=20)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@given(st.lists(st.lists(LINE, min_size=1, max_size=3), max_size=5), ENDS, st.integers(1, 7))
async def test_any_events_in_any_chunking(events: list[list[str]], end: str, size: int) -> None:
    stream = "".join(
        f": keep-alive{end}{end}" + "".join(f"data: {line}{end}" for line in lines) + end for lines in events
    ).encode()
    chunks = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert await parsed(*chunks) == ["\n".join(lines).encode() for lines in events]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data:a\n\ndata:  b\n\n", [b"a", b" b"]),
        (b"data: a\n", []),  # cut off: the event never ended
        (b"event: x\ndata: a\nretry: 5\ndata: b\n\n\n\n", [b"a\nb"]),
    ],
)
async def test_the_standard(stream: bytes, events: list[bytes]) -> None:
    assert await parsed(stream) == events


async def test_an_endless_event_is_refused_and_many_short_ones_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(served, "EVENT_MAX_BYTES", 10_000)
    for endless in (b"x" * 1000, b"data: 0123456789\n" * 50):
        with pytest.raises(ReplyTooLong):
            await parsed(*[endless] * 20)
    for event in (b"data: 0123456789\n\n", b": keep-alive\n\n"):
        await parsed(*[event * 50] * 50)
