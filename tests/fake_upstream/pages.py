"""The routes beside the chat: OpenAI's model list, and what Ollama is recognised by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.fake_upstream.records import Request

if TYPE_CHECKING:
    from tests.fake_openai import FakeOpenAI


def page(fake: FakeOpenAI, request: Request, path: str) -> Any:
    """The JSON of the other routes: OpenAI's model list, and what Ollama is recognised by."""
    match request.method, path:
        case "GET", "/models":
            return {"object": "list", "data": [{"id": name, "object": "model"} for name in fake.models]}
        case "GET", "/api/tags":
            return {"models": [_ollama_model(name, can) for name, can in fake.ollama_models.items()]}
        case "GET", "/api/version":
            return {"version": "0.0.0-fake"}
        case "POST", "/api/show":
            name = request.json.get("model", "")
            return {"capabilities": fake.ollama_models.get(name, []), "details": _ollama_details(name)}
        case "GET", "":
            return "Ollama is running"
    return None


def _ollama_model(name: str, capabilities: list[str]) -> dict[str, Any]:
    return {"name": name, "model": name, "capabilities": capabilities, "details": _ollama_details(name)}


def _ollama_details(name: str) -> dict[str, Any]:
    family = "nomic-bert" if "embed" in name else "llama"
    return {"family": family, "families": [family], "parameter_size": "1B"}
