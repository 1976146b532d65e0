"""The parts of Gradio that are not documented are where `gradio_bridge` takes them to be."""

from __future__ import annotations

import gradio as gr
import pytest

from dspy_demo.ui.gradio_bridge import Page, delivered, events_of, queue
from tests.visitors import OWNER, request_of


async def test_each_part_is_there(caplog: pytest.LogCaptureFixture) -> None:
    with Page() as demo:
        button = gr.Button("Go")
        button.click(lambda: [][0], None, button, api_name="go")
    queue(demo, events=123, sessions=45, waiting=6)
    assert events_of(demo) == ([0], ["go"])
    assert demo._queue.max_thread_count == 123, "as many turns are drawn at once as may run"
    assert gr.routes.App.create_app(demo).state_holder.capacity == 45
    assert demo._queue.pending_messages_per_session == {}
    assert delivered(demo, request_of(OWNER))
    with pytest.raises(gr.Error):
        await demo.process_api(demo.fns[0], [])
    assert caplog.messages == ["an event of the page failed"]


def test_without_them_nothing_is_open_and_everything_is_sent() -> None:
    assert events_of(object()) == ([], [])  # type: ignore[arg-type]
    assert delivered(object(), request_of(OWNER))  # type: ignore[arg-type]
