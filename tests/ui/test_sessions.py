"""Sessions of the mounted page."""

from __future__ import annotations

import gradio as gr
import httpx
from starlette.routing import Mount

from dspy_demo.ui.pages import _mounted


async def test_a_session_keeps_what_its_visitor_changed_and_nothing_else() -> None:
    with gr.Blocks() as page:
        box, button = gr.Textbox(label="Name"), gr.Button("Go")
        gr.Markdown("A page of many components")
        button.click(lambda: gr.update(label="Renamed", value="here"), outputs=box, api_name="go")
    app = _mounted(page, 5)
    gradio_app = next(route.app for route in app.routes if isinstance(route, Mount))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        for session in ("one", "two"):
            body = {"data": [], "fn_index": 0, "session_hash": session}
            reply = await client.post("/gradio_api/run/predict", json=body)
            assert reply.json()["data"] == [{"label": "Renamed", "value": "here", "__type__": "update"}]
    sessions = gradio_app.state_holder
    assert sessions is page.state_holder
    assert list(sessions.session_data) == ["one", "two"]
    changed = sessions["one"]
    assert not any(changed.config_values.values())
    assert changed[box._id].label == "Renamed"
    assert box.label == "Name"


async def test_only_the_last_sessions_are_kept() -> None:
    with gr.Blocks() as page:
        gr.Markdown("page")
    app = _mounted(page, 300)
    gradio_app = next(route.app for route in app.routes if isinstance(route, Mount))
    for number in range(310):
        gradio_app.state_holder[f"s{number}"]
    assert len(gradio_app.state_holder.session_data) == 300
