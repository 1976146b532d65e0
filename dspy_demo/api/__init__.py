"""The REST and the OpenAI-compatible routes over one `ChatService`.

`build_router` for an application of your own; `build_routes` for one that takes a list of routes, such
as Gradio's, with the documentation at ``/docs`` and ``/openapi.json``; `build_api` stands alone.
"""

from dspy_demo.api.application import application
from dspy_demo.api.docs import build_api, build_routes, with_docs
from dspy_demo.api.router import build_router

__all__ = ["application", "build_api", "build_router", "build_routes", "with_docs"]
