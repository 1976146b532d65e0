"""Who may ask a model server: by name, by token, and never from a page of another site."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from dspy_demo.errors import SettingsError
from dspy_demo.serving.app import build_app
from dspy_demo.serving.loading import ServedVersion
from dspy_demo.web.middleware import ModelServerMiddleware
from tests.backends.served_fixtures import ServedWorld
from tests.services import settings_for
from tests.serving.conftest import QUESTION, in_process

pytestmark = pytest.mark.integration

HOSTS = {
    "its address": ("127.0.0.1:{port}", True),
    "this machine's name": ("localhost:{port}", True),
    "IPv6": ("[::1]:{port}", True),
    "no port": ("localhost", True),
    "a tunnel's port": ("127.0.0.1:9", True),
    "a name that was pointed here": ("evil.test:{port}", False),
    "its address as the beginning of a name": ("127.0.0.1.evil.test:{port}", False),
    "its address as credentials": ("127.0.0.1@evil.test", False),
    "every address": ("0.0.0.0:{port}", False),
    "nothing": ("", False),
    "nonsense": ("[::1", False),
}
ASKED = {
    "/predict": {"text": "What is 2 + 2?"},
    "/invocations": QUESTION,
    "/model": None,
    "/metrics": None,
}


async def test_only_the_names_of_this_machine_are_answered(
    served_world: ServedWorld, client: httpx.AsyncClient
) -> None:
    """Also for a page of another site that has pointed its own name at this machine: its Origin fits."""
    for name, (host, answered) in HOSTS.items():
        served_world.fake.reset()
        host = host.format(port=served_world.live.port)
        for path, body in ASKED.items():
            headers = {"Host": host} | ({"Origin": f"http://{host}"} if body else {})
            method, url = "POST" if body else "GET", served_world.live.url + path
            reply = await client.request(method, url, headers=headers, json=body)
            assert reply.status_code == (200 if answered else 403), (name, path, reply.text)
            assert answered or reply.json()["message"].endswith(".")
        assert bool(served_world.fake.requests) is answered, name


async def test_a_page_of_another_site_is_not_answered(
    served_world: ServedWorld, client: httpx.AsyncClient
) -> None:
    port = served_world.live.port
    for origin in ("http://evil.test", "null", "http://127.0.0.1:1", f"http://localhost:{port}"):
        for path in ("/invocations", "/predict"):
            url = served_world.live.url + path
            reply = await client.post(url, json=ASKED[path], headers={"Origin": origin})
            assert reply.status_code == 403
            assert "another site" in reply.json()["message"]
    assert not served_world.fake.requests


async def test_beyond_this_machine_a_token_or_a_name_lets_in(
    loaded_version: ServedVersion, data_dir: Path
) -> None:
    app = build_app(loaded_version, settings_for(data_dir, tracing=False))
    with pytest.raises(SettingsError, match=r"--allow-host.*DSPY_DEMO_OWNER_TOKEN"):
        ModelServerMiddleware(app, host="0.0.0.0")
    token = "a-token-of-the-test"
    by_token = ModelServerMiddleware(app, host="0.0.0.0", token=SecretStr(token))
    by_name = ModelServerMiddleware(app, host="0.0.0.0", allowed=["Model.svc"])
    bearer = {"Authorization": f"Bearer {token}"}
    service, evil = {"Host": "model.svc:5001"}, {"Origin": "http://evil.test"}
    for server, headers, status in (
        (by_token, {}, 401),
        (by_token, {"Authorization": "Bearer guessed"}, 401),
        (by_token, bearer, 200),
        (by_token, bearer | service, 200),
        (by_token, bearer | service | evil, 403),
        (by_token, bearer | evil, 403),
        (by_name, service, 200),
        (by_name, {}, 200),  # by loopback
        (by_name, {"Host": "evil.test"}, 403),
        (by_name, service | evil, 403),
    ):
        async with in_process(server) as client:
            assert (await client.get("/model", headers=headers)).status_code == status, headers
