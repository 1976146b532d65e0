"""The model server: one version behind the routes of ``mlflow models serve``, and the API's beside them."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import dspy
from fastapi import APIRouter, FastAPI
from fastapi.responses import Response

from dspy_demo.api.errors import JsonRoute
from dspy_demo.api.ops import probes_router
from dspy_demo.api.routes import build_api
from dspy_demo.api.turns import Asked, whole_answer
from dspy_demo.backends.local import LocalBackend
from dspy_demo.chat import ChatService
from dspy_demo.errors import DemoError, InvalidInput, ModelSetupError
from dspy_demo.events import LMChoice, LocalTarget, TurnFailed, TurnFinished, error_body
from dspy_demo.lm.catalog import PLACEHOLDER_KEY, LMCatalog
from dspy_demo.lm.choices import Detection
from dspy_demo.lm.local.files import LocalModel, the_same
from dspy_demo.lm.providers import provider_for
from dspy_demo.programs.inputs import chat_messages
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.serving import INSTANCE_VARIABLE
from dspy_demo.serving.loading import ServedVersion
from dspy_demo.settings import Settings
from dspy_demo.tracing.tracer import Tracer
from dspy_demo.versions.tracking import Tracking

REFUSED = (
    'This version does not take such a body. Send {"messages": [{"role": "user", "content": "..."}]} as JSON.'
)


class VersionCatalog(LMCatalog):
    """The catalog of a model server: every turn runs on the model that the version was logged with."""

    def __init__(self, settings: Settings, choice: LMChoice, version: ServedVersion) -> None:
        super().__init__(settings, Detection(choice, "Logged with the version.", ()))
        self._version = version

    def lm(self, choice: LMChoice) -> dspy.LM:
        return self._version.own_lm if self._version.own_lm is not None else super().lm(choice)

    def _model_file(self, choice: LMChoice) -> LocalModel:
        file = self._version.model_file
        return the_same(file, self._settings) if file else super()._model_file(choice)


def build_app(version: ServedVersion, settings: Settings) -> FastAPI:
    """The ASGI application of a version. `app.state.service` is its `ChatService`."""
    choice = replace(version.lm, api_key=settings.api_key or provider_for(version.lm.model).key(settings))
    programs = ProgramRegistry([replace(version.spec, build=lambda: version.module, adapter=version.adapter)])
    catalog = VersionCatalog(settings, choice, version)
    local = LocalBackend(settings, programs, catalog)
    tracer = Tracer(settings, Tracking(settings), serves=version.uri)
    service = ChatService(settings, programs, local, tracer=tracer)
    reason = _why_not_ready(catalog, choice, settings)
    _lend_key(choice)

    async def prepare() -> None:
        if reason:
            raise ModelSetupError(reason)
        await local.prepare(LocalTarget(version.spec.name, choice))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.aclose()
        await asyncio.to_thread(tracer.close, 4.0)

    title, errors = f"Model server of {version.uri}", {"/invocations": mlflow_error}
    routers = mlflow_router, probes_router(service, prepare)
    app = build_api(service, lambda: choice, *routers, title=title, errors=errors, lifespan=lifespan)

    @app.get("/model", summary="What is served here, and how many turns run")
    async def model() -> dict[str, Any]:
        return {
            "server": "dspy-demo",
            "instance": os.environ.get(INSTANCE_VARIABLE, ""),
            "version": version.uri,
            "program": version.spec.name,
            "lm": choice.model,
            "adapter": version.adapter,
            "ready": not reason,
            "reason": reason,
            "running": len(service.running | service.waiting),
        }

    return app


def _why_not_ready(catalog: LMCatalog, choice: LMChoice, settings: Settings) -> str:
    """A sentence, or empty; told at the start, not when the first question needs the model."""
    provider = provider_for(choice.model)
    if provider.example and not (choice.api_key or choice.api_base or provider.base(settings)):
        names = " or ".join(provider.keys)
        return f"{choice.model} needs a key: set {names} where the model server is started."
    try:
        catalog.lm(choice)
    except DemoError as error:
        return error.public_message
    return ""


def _lend_key(choice: LMChoice) -> None:
    """A model that the program holds itself finds its key in the environment only.

    DSPy's native engine insists on one also for a local server that needs none.
    """
    key = choice.api_key.get_secret_value() if choice.api_key else choice.api_base and PLACEHOLDER_KEY
    for variable in provider_for(choice.model).keys if key else ():
        os.environ.setdefault(variable, str(key))


#: The routes of ``mlflow models serve``, whose answers are the same to the byte; here a call is a turn.
mlflow_router = APIRouter(route_class=JsonRoute)


@mlflow_router.get("/ping", include_in_schema=False)
@mlflow_router.get("/health", include_in_schema=False)
async def ping() -> Response:
    return Response("\n", media_type="application/json")


@mlflow_router.get("/version", include_in_schema=False)
async def mlflow_version() -> Response:
    import mlflow

    return Response(mlflow.__version__, media_type="application/json")


@mlflow_router.post("/invocations", summary="Ask as MLflow's clients do")
async def invocations(body: dict[str, Any], asked: Asked) -> Response:
    """Takes `messages`, or one row of them as `inputs`, `instances` or one of the `dataframe` forms."""
    row, spec = body if "messages" in body else _row(body), asked.service.programs.default
    match row:
        case {"messages": [*messages]} if all(isinstance(message, dict) for message in messages):
            turn = asked.chat(spec, chat_messages(messages))
        case {"messages": _}:
            raise InvalidInput(REFUSED)
        case _:  # input fields by name, as a version of another task takes them
            turn = asked.turn(spec, row)

    def finished(end: TurnFinished) -> Response:
        content: dict[str, Any] = dict(end.outputs)
        if "messages" in row:
            message = {"role": "assistant", "content": json.dumps(content)}
            content = {"choices": [{"index": 0, "message": message, "finish_reason": end.finish_reason}]}
        reply = content if row is body else {"predictions": content}
        return Response(json.dumps(reply), media_type="application/json")

    return await whole_answer(asked, turn, finished=finished, failed=mlflow_error)


def _row(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The one row that a body of MLflow's other forms holds, or InvalidInput."""
    match body:
        case {"dataframe_split": {"columns": [*columns], "data": [[*values]]}}:
            return dict(zip(map(str, columns), values, strict=False))
        case {"inputs": dict(row) | [dict(row)]} | {"instances": dict(row) | [dict(row)]}:
            return row
        case {"dataframe_records": [dict(row)]}:
            return row
    raise InvalidInput(REFUSED)


def mlflow_error(failed: TurnFailed) -> Response:
    """MLflow's two keys, and ours, by which `backends.served` knows the error again."""
    status = 400 if failed.http_status == 422 else failed.http_status
    error_code = "BAD_REQUEST" if status == 400 else failed.code.upper()
    content = {"error_code": error_code} | error_body(failed)
    return Response(json.dumps(content), status, media_type="application/json")
