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
ASKED = [("POST", "/predict"), ("POST", "/invocations"), ("GET", "/model"), ("GET", "/metrics")]


@pytest.mark.parametrize("name", HOSTS)
async def test_only_the_names_of_this_machine_are_answered(
    served_world: ServedWorld, client: httpx.AsyncClient, name: str
) -> None:
    """Also for a page of another site that has pointed its own name at this machine: its Origin fits."""
    host, answered = HOSTS[name]
    host = host.format(port=served_world.live.port)
    for method, path in ASKED:
        headers = {"Host": host} | ({"Origin": f"http://{host}"} if method == "POST" else {})
        body = QUESTION if path == "/invocations" else {"text": "What is 2 + 2?"}
        reply = await client.request(
            method, served_world.live.url + path, headers=headers, json=body if method == "POST" else None
        )
        assert reply.status_code == (200 if answered else 403), (path, reply.text)
        assert answered or reply.json()["message"].endswith(".")
    assert bool(served_world.fake.requests) is answered


@pytest.mark.parametrize(
    "origin", ["http://evil.test", "null", "http://127.0.0.1:1", "http://localhost:{port}"]
)
async def test_a_page_of_another_site_is_not_answered(
    served_world: ServedWorld, client: httpx.AsyncClient, origin: str
) -> None:
    headers = {"Origin": origin.format(port=served_world.live.port)}
    for path, body in (("/invocations", QUESTION), ("/predict", {"text": "hi"})):
        reply = await client.post(served_world.live.url + path, json=body, headers=headers)
        assert reply.status_code == 403
        assert "another site" in reply.json()["message"]
    assert not served_world.fake.requests


def test_beyond_this_machine_somebody_has_to_be_named(served_world: ServedWorld) -> None:
    data_dir = str(served_world.settings.data_dir)
    code, output = run(
        served_world, served_world.builtin, "--host", "0.0.0.0", "--port", "0", "--data-dir", data_dir
    )
    assert (code, output.count("\n")) == (2, 1)
    assert "--allow-host" in output and "DSPY_DEMO_OWNER_TOKEN" in output


async def test_beyond_this_machine_a_token_or_a_name_lets_in(
    served_world: ServedWorld, own_server: Any, client: httpx.AsyncClient
) -> None:
    token = "a-token-of-the-test"
    by_token = own_server(served_world.builtin, "--host", "0.0.0.0", env={"DSPY_DEMO_OWNER_TOKEN": token})
    bearer = {"Authorization": f"Bearer {token}"}
    service, evil = {"Host": "model.svc:5001"}, {"Origin": "http://evil.test"}
    for headers, status in (
        ({}, 401),
        ({"Authorization": "Bearer guessed"}, 401),
        (bearer, 200),
        (bearer | service, 200),
        (bearer | service | evil, 403),
        (bearer | evil, 403),
    ):
        assert (await client.get(f"{by_token.url}/model", headers=headers)).status_code == status, headers
    assert (await client.get(f"{by_token.url}/ready", headers=service)).status_code == 200
    by_token.stop()

    by_name = own_server(served_world.builtin, "--host", "0.0.0.0", "--allow-host", "Model.svc")
    for headers, status in (
        (service, 200),
        ({}, 200),  # by loopback
        ({"Host": "evil.test"}, 403),
        (service | evil, 403),
    ):
        assert (await client.get(f"{by_name.url}/model", headers=headers)).status_code == status, headers
