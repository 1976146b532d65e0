"""The app's routes, with everything else behind them, as one application."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp


def application(routes: Sequence[BaseRoute], page: ASGIApp, lifespan: Callable[[Any], Any]) -> FastAPI:
    """`routes` first; what is none of them is the page's."""
    return FastAPI(
        routes=[*routes, Mount("/", page)],
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
