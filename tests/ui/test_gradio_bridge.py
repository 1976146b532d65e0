"""The parts of Gradio that are not documented are where `gradio_bridge` takes them to be."""

import gradio as gr
import pytest

from dspy_demo.errors import NotFound
from dspy_demo.ui.gradio_bridge import Page, delivered, queue
from tests.visitors import OWNER, request_of


async def test_each_part_of_gradio_is_there_and_without_what_waits_every_update_is_sent(caplog):
    def refuse():
        raise NotFound("It is not there.")

    with Page() as demo:
        gr.Button("Go").click(refuse)
        gr.Button("Break").click(lambda: [][0])
    looks_often = demo._queue.sleep_when_free
    queue(demo, turns=300)
    assert demo._queue.sleep_when_free > looks_often, "a page that nobody uses costs next to nothing"
    assert demo._queue.max_thread_count > 300, "as many turns are drawn at once as may run"
    assert gr.routes.App.create_app(demo).state_holder.capacity == 300
    assert demo._queue.pending_messages_per_session == {}
    assert delivered(demo, request_of(OWNER)) and delivered(object(), request_of(OWNER))
    for event in (0, 1):
        with pytest.raises(gr.Error):
            await demo.process_api(demo.fns[event], [])
    assert [(line.levelname, bool(line.exc_info)) for line in caplog.records] == [("WARNING", False)] * 2
