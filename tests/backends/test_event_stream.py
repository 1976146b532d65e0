from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_demo.backends.event_stream import EventStreamParser
from dspy_demo.errors import ReplyTooLong


def parsed(*chunks: bytes, **limits: int) -> list[bytes]:
    parser = EventStreamParser(**limits)
    return [data for chunk in chunks for data in parser.feed(chunk)]


LINE = st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"]), max_size=20)


@given(
    st.lists(st.lists(LINE, min_size=1, max_size=3), max_size=5),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.integers(1, 7),
)
def test_any_events_in_any_chunking(events: list[list[str]], end: str, size: int) -> None:
    stream = "".join(
        f": keep-alive{end}{end}" + "".join(f"data: {line}{end}" for line in lines) + end for lines in events
    ).encode()
    chunks = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert parsed(*chunks) == ["\n".join(lines).encode() for lines in events]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: a\n", []),  # cut off: the event never ended
        (b": comment\n\nevent: x\nid: 1\n\n", []),
        (b"event: x\ndata: a\nretry: 5\ndata: b\n\n", [b"a\nb"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"\n\n\n", []),
    ],
)
def test_the_standard(stream: bytes, events: list[bytes]) -> None:
    assert parsed(stream) == events
    assert parsed(*(bytes([byte]) for byte in stream)) == events


def test_an_endless_line_is_refused_before_it_is_kept() -> None:
    with pytest.raises(ReplyTooLong):
        parsed(*[b"x" * 1000] * 11, event_max_bytes=10_000)


def test_an_endless_event_is_refused() -> None:
    with pytest.raises(ReplyTooLong):
        parsed(b"data: " + b"x" * 10_000_000 + b"\n\n")
    with pytest.raises(ReplyTooLong):
        parsed(*[b"data: 0123456789\n"] * 1_001, event_max_bytes=10_000)


def test_many_events_have_no_limit_together() -> None:
    assert len(parsed(*[b"data: 0123456789\n\n"] * 5_000, event_max_bytes=100)) == 5_000
    assert len(parsed(*[b": keep-alive\n\n"] * 5_000, event_max_bytes=100)) == 0
