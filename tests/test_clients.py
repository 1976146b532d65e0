"""Real clients against the real app over a real upstream, and nothing that leaves this machine."""

import gradio_client
import httpx
import pytest

from tests.processes import running_app

pytestmark = pytest.mark.integration

#: Refuses every other host to the app, and writes down which one it asked for.
GUARD = """
import os, socket
HERE = ("127.", "::1", "localhost", "0.0.0.0")
def check(host):
    name = host.decode() if isinstance(host, bytes) else str(host)
    if host and not name.startswith(HERE):
        with open(os.environ["GUARD_LOG"], "a") as log: log.write(name + "\\n")
        raise OSError("no network in this test")
_connect, _look_up = socket.socket.connect, socket.getaddrinfo
def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6): check(address[0])
    return _connect(self, address)
def getaddrinfo(host, *rest, **options):
    check(host)
    return _look_up(host, *rest, **options)
socket.socket.connect, socket.getaddrinfo = connect, getaddrinfo
"""


@pytest.fixture(scope="module")
def app(upstream, tmp_path_factory):
    """The app over the fake upstream; one process for all the tests here, since a start takes seconds."""
    home = tmp_path_factory.mktemp("clients")
    (home / "sitecustomize.py").write_text(GUARD)
    env = {"PYTHONPATH": str(home), "GUARD_LOG": str(home / "guard.log")}
    flags = ("--no-cache", "--lm", "openai/fake", "--api-base", upstream.url)
    with running_app(*flags, data_dir=home / "data", home=home, env=env) as server:
        server.guard_log = home / "guard.log"
        yield server


def test_the_gradio_client(app, blocked_connections):
    client = gradio_client.Client(app.url, verbose=False, analytics_enabled=False)
    try:
        job = client.submit("I am visitor-11", api_name="/chat")
        assert "visitor-11" in job.result(timeout=30)
        named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
        assert list(named) == ["/chat"], "one endpoint is public, the page's own are not"
    finally:
        client.close()
    # huggingface_hub, which the client uses, asks home for a list of agents. The app does not.
    assert set(blocked_connections) <= {"huggingface.co"}
    blocked_connections.clear()


def test_nothing_leaves_this_machine(app):
    """Page, documentation and a turn of each program, with every other host refused and written down."""
    for path in ("/", "/config", "/docs", "/openapi.json", "/gradio_api/info"):
        assert httpx.get(f"{app.url}{path}", timeout=30).status_code == 200, path
    for program in ("chain_of_thought", "predict", "react", "draft_and_review"):
        body = {"text": "What is 2 + 2?", "program": program}
        reply = httpx.post(f"{app.url}/predict", json=body, timeout=30)
        assert reply.status_code == 200, reply.text
    assert not app.guard_log.exists(), app.guard_log.read_text()
