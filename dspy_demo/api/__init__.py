"""The REST and the OpenAI-compatible routes over one `ChatService`."""

from dspy_demo.api.routes import build_api

__all__ = ["build_api"]
