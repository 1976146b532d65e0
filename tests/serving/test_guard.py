"""Who may ask a model server: by name, by token, and never from a page of another site."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from dspy_demo.errors import SettingsError
from dspy_demo.web.middleware import ModelServerMiddleware
from tests.serving.conftest import QUESTION, in_process

pytestmark = pytest.mark.integration

TOKEN = "a-token-of-the-test"
HERE = {"host": "127.0.0.1"}
BY_TOKEN = {"host": "0.0.0.0", "token": SecretStr(TOKEN)}
BY_NAME = {"host": "0.0.0.0", "allowed": ["Model.svc"]}
BEARER = {"Authorization": f"Bearer {TOKEN}"}
SERVICE, EVIL = {"Host": "model.svc:5001"}, {"Origin": "http://evil.test"}
#: How a server was started, the headers of a request, and the status of its answer.
ASKERS = [
    (HERE, {"Host": "127.0.0.1:5001"}, 200),
    (HERE, {"Host": "localhost"}, 200),
    (HERE, {"Host": "[::1]:5001"}, 200),
    (HERE, {"Host": "127.0.0.1:9"}, 200),  # of a tunnel
    (HERE, {"Host": "evil.test:5001"}, 403),  # a name that was pointed here
    (HERE, {"Host": "127.0.0.1.evil.test:5001"}, 403),
    (HERE, {"Host": "127.0.0.1@evil.test"}, 403),
    (HERE, {"Host": "0.0.0.0:5001"}, 403),
    (HERE, {"Host": ""}, 403),
    (HERE, {"Host": "[::1"}, 403),
    (HERE, EVIL, 403),
    (HERE, {"Origin": "null"}, 403),
    (HERE, {"Origin": "http://127.0.0.1:1"}, 403),
    (HERE, {"Origin": "http://localhost"}, 403),
    (BY_TOKEN, {}, 401),
    (BY_TOKEN, {"Authorization": "Bearer guessed"}, 401),
    (BY_TOKEN, BEARER, 200),
    (BY_TOKEN, BEARER | SERVICE, 200),
    (BY_TOKEN, BEARER | SERVICE | EVIL, 403),
    (BY_TOKEN, BEARER | EVIL, 403),
    (BY_NAME, SERVICE, 200),
    (BY_NAME, {}, 200),  # by loopback
    (BY_NAME, {"Host": "evil.test"}, 403),
    (BY_NAME, SERVICE | EVIL, 403),
]
PATHS = {"/predict": {"text": "What is 2 + 2?"}, "/invocations": QUESTION, "/model": None, "/metrics": None}


async def test_only_who_may_is_answered(loaded_app, fake_openai):
    """Also for a page of another site that has pointed its own name at this machine: its Origin fits."""
    app = loaded_app()
    for started, headers, status in ASKERS:
        fake_openai.reset()
        own_site = {"Origin": f"http://{headers['Host']}"} if "Host" in headers else {}
        async with in_process(ModelServerMiddleware(app, **started)) as client:
            for path, body in PATHS.items():
                method = "POST" if body else "GET"
                reply = await client.request(method, path, headers=own_site | headers, json=body)
                assert reply.status_code == status, (started, headers, path, reply.text)
                assert status == 200 or reply.json()["message"].endswith(".")
        assert bool(fake_openai.requests) is (status == 200), headers
    with pytest.raises(SettingsError, match=r"--allow-host.*DSPY_DEMO_OWNER_TOKEN"):
        ModelServerMiddleware(app, host="0.0.0.0")
