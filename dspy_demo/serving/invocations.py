"""``/invocations`` with the contract of ``mlflow models serve``, as turns of the chat service.

MLflow's own scoring app runs each call in one of a few threads, goes on when the client has left, and puts
the stack trace of a failure into the reply. A turn does none of that, and the outputs are the same JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from dspy_demo.api.asking import Asker
from dspy_demo.api.routes import json_route
from dspy_demo.api.streaming import while_connected
from dspy_demo.api.turn_ids import turn_id_header, under_given_id
from dspy_demo.chat import ChatService
from dspy_demo.errors import InvalidInput
from dspy_demo.events import LMChoice, TurnFailed, TurnFinished, TurnRequest
from dspy_demo.programs.chat_program import chat_messages

REFUSED = (
    'This version does not take such a body. Send {"messages": [{"role": "user", "content": "..."}]} as JSON.'
)


def invocations_router(service: ChatService, default_lm: Callable[[], LMChoice]) -> APIRouter:
    """The route, for the one program of a model server."""
    asker = Asker(service.programs, default_lm)
    route = json_route(
        _failure,
        body_max_bytes=service.settings.input_max_chars * 8 + 65_536,
        body_timeout_s=service.settings.request_timeout_s,
        chat=True,
    )
    router = APIRouter(route_class=route)

    @router.post("/invocations", summary="Ask as MLflow's clients do")
    async def invocations(body: dict[str, Any], request: Request) -> Response:
        """Takes `messages`, or one row of them as `dataframe_split`, `dataframe_records`, `inputs` or
        `instances`. The content of the reply is the output fields as JSON.
        """
        row = body if "messages" in body else _row(body)
        turn_request = under_given_id(_turn_request(asker, service, row), request.headers)
        service.check(turn_request)
        end = await while_connected(request.receive, service.answer(turn_request))
        if isinstance(end, TurnFailed):
            return _failure(end)
        if end is None:
            return Response(status_code=499)
        content = _choices(end) if "messages" in row else dict(end.outputs)
        reply = content if row is body else {"predictions": content}
        # As MLflow writes it, to the byte.
        return Response(
            json.dumps(reply), headers=turn_id_header(turn_request), media_type="application/json"
        )

    return router


def _row(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The one row that a body of MLflow's other forms holds.

    Raises:
        InvalidInput: There is none, or more than one.
    """
    match body:
        case {"dataframe_split": {"columns": [*columns], "data": [[*values]]}}:
            row: Any = dict(zip(map(str, columns), values, strict=False))
        case {"dataframe_records": [row]} | {"inputs": [row]} | {"instances": [row]}:
            pass
        case {"inputs": row} | {"instances": row}:
            pass
        case _:
            row = None
    if not isinstance(row, dict):
        raise InvalidInput(REFUSED)
    return row


def _turn_request(asker: Asker, service: ChatService, row: Mapping[str, Any]) -> TurnRequest:
    """The turn of a row: a chat, or input fields by name, as a version of another task takes them."""
    spec = service.programs.default
    if "messages" not in row:
        return asker.request(spec, row, (), {})
    messages = row["messages"]
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InvalidInput(REFUSED)
    return asker.chat(spec, chat_messages(messages), {})


def _choices(end: TurnFinished) -> dict[str, Any]:
    message = {"role": "assistant", "content": json.dumps(dict(end.outputs))}
    return {"choices": [{"index": 0, "message": message, "finish_reason": end.finish_reason}]}


def _failure(failed: TurnFailed, field: str = "") -> Response:
    """MLflow's two keys, and ours, by which `backends.served` knows the error again."""
    status = 400 if failed.http_status == 422 else failed.http_status
    content = {
        "error_code": "BAD_REQUEST" if status == 400 else failed.code.upper(),
        "message": failed.public_message,
        "status": "error",
        "code": failed.code,
        "retryable": failed.retryable,
        "error_id": failed.error_id,
    }
    return Response(json.dumps(content), status, media_type="application/json")
