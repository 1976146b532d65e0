"""Who may ask a model server: by name, by token, and never from a page of another site."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.backends.served_fixtures import ServedWorld
from tests.serving.conftest import QUESTION, run

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
    served_world: ServedWorld, own_server: Any, client: httpx.AsyncClient
) -> None:
    beyond, data_dir = ("--host", "0.0.0.0"), str(served_world.settings.data_dir)
    code, output = run(served_world, served_world.builtin, *beyond, "--port", "0", "--data-dir", data_dir)
    assert (code, output.count("\n")) == (2, 1)
    assert "--allow-host" in output and "DSPY_DEMO_OWNER_TOKEN" in output

    token = "a-token-of-the-test"
    by_token = own_server(served_world.builtin, *beyond, env={"DSPY_DEMO_OWNER_TOKEN": token})
    by_name = own_server(served_world.builtin, *beyond, "--allow-host", "Model.svc")
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
        assert (await client.get(f"{server.url}/model", headers=headers)).status_code == status, headers
    assert (await client.get(f"{by_token.url}/ready", headers=service)).status_code == 200
