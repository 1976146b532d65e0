"""What a stranger or a guest tried against the real app, over real connections; each of it worked once."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import secrets
import socket
from collections.abc import Iterator

import httpx
import pytest

from dspy_demo.web.gradio_routes import MOST_STREAMS
from tests.fake_openai import FakeOpenAI
from tests.processes import ServerProcess, running_app

pytestmark = pytest.mark.integration

API = "/gradio_api"
OWNER = {"authorization": "Bearer owner-token-0123456789"}
PASSWORD = "open sesame"
CONNECTIONS = 100


@pytest.fixture(scope="module")
def app(upstream: FakeOpenAI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("attacks")
    flags = ["--public", "--lm", "openai/inner-model", "--api-base", upstream.url]
    flags += ["--max-connections", str(CONNECTIONS)]
    env = {"DSPY_DEMO_OWNER_TOKEN": OWNER["authorization"].removeprefix("Bearer "), "OPENAI_API_KEY": "sk-x"}
    with running_app(*flags, data_dir=home / "data", home=home, env=env) as server:
        yield server


@pytest.fixture(scope="module")
def closed_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The same behind a password."""
    home = tmp_path_factory.mktemp("password")
    flags = ["--public", "--guest-password", PASSWORD]
    with running_app(*flags, data_dir=home / "data", home=home) as server:
        yield server


@contextlib.contextmanager
def guest_of(app: ServerProcess) -> Iterator[httpx.Client]:
    """A browser with a session of its own."""
    with httpx.Client(base_url=app.url, timeout=30) as client:
        assert client.get("/").status_code == 200
        yield client


def event_of(client: httpx.Client, name: str) -> dict[str, object]:
    events = client.get("/config").json()["dependencies"]
    return next(event for event in events if event["api_name"] == name)


def joined(client: httpx.Client, session: str) -> None:
    """A page of this visitor, which has an event under way."""
    number = event_of(client, "load")["id"]
    body = {"fn_index": number, "data": [None], "session_hash": session}
    assert client.post(f"{API}/queue/join", json=body).status_code == 200


@pytest.mark.parametrize("who", [{}, OWNER], ids=["guest", "owner"])
def test_a_page_holds_no_address_of_the_model(
    app: ServerProcess, upstream: FakeOpenAI, who: dict[str, str]
) -> None:
    """The pickers' values say which model, and nothing of where it runs."""
    address = upstream.url.removeprefix("http://").removesuffix("/v1")
    with guest_of(app) as client:
        config = client.get("/config", headers=who).json()
        texts = [client.get(path, headers=who).text for path in ("/", "/config", f"{API}/info")]
    models = next(part["props"] for part in config["components"] if part["props"].get("elem_id") == "model")
    assert models["value"] == "openai/inner-model"
    assert not any("://" in value for _, value in models["choices"])
    if who is not OWNER:  # who may read where it runs, and does
        assert not any(address in text for text in texts)


def test_nobody_reads_or_ends_the_page_of_another(app: ServerProcess) -> None:
    session = secrets.token_hex(6)
    with guest_of(app) as victim, guest_of(app) as other:
        joined(victim, session)
        tries = [
            other.get(f"{API}/queue/data", params={"session_hash": session}),
            other.get(f"{API}/heartbeat/{session}"),
            other.post(f"{API}/cancel", json={"session_hash": session, "fn_index": 0, "event_id": "x"}),
            other.post(f"{API}/queue/join", json={"session_hash": session, "fn_index": 0, "data": [None]}),
            other.post(f"{API}/run/predict", json={"session_hash": session, "fn_index": 0, "data": [None]}),
            # In another encoding, or twice: what is judged is what Gradio reads.
            other.post(
                f"{API}/cancel",
                content=json.dumps({"session_hash": session, "fn_index": 0, "event_id": "x"}).encode(
                    "utf-16"
                ),
            ),
            other.get(f"{API}/queue/data?session_hash=mine&session_hash={session}"),
        ]
        assert {reply.status_code for reply in tries} == {403}
        assert "another visitor" in tries[0].json()["message"]
        owners = [
            other.post(f"{API}/cancel", json={"session_hash": "never-seen", "fn_index": 0, "event_id": "x"}),
            other.get(f"{API}/queue/data", params={"session_hash": "never-seen"}),
        ]
        assert {reply.status_code for reply in owners} == {404}
        with victim.stream("GET", f"{API}/queue/data", params={"session_hash": session}) as stream:
            assert any("process_completed" in line for line in stream.iter_lines())


def test_an_owners_page_is_not_a_guests_either(app: ServerProcess) -> None:
    session = secrets.token_hex(6)
    with guest_of(app) as other, httpx.Client(base_url=app.url, headers=OWNER, timeout=30) as owner:
        joined(owner, session)
        ended = other.post(f"{API}/cancel", json={"session_hash": session, "fn_index": 3, "event_id": "x"})
        assert ended.status_code == 403


def test_a_body_that_is_too_long_is_refused_with_a_sentence(app: ServerProcess) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"session_hash": "'
        for _ in range(90):
            yield b"x" * 100_000

    with guest_of(app) as guest:
        for path in ("cancel", "queue/join"):
            long = guest.post(f"{API}/{path}", content=pieces())
            assert (long.status_code, long.json()["code"]) == (413, "body_too_large")
        chat = {"fn_index": 0, "data": [["x" * 1_000_000]], "session_hash": "long-chat"}
        assert guest.post(f"{API}/queue/join", json=chat).status_code == 200


def test_events_that_a_guest_makes_up_fill_no_log(app: ServerProcess) -> None:
    before = len(app.log)
    with guest_of(app) as guest:
        for body in ({"fn_index": 999}, {"fn_index": "0"}, {"fn_index": [0]}, {"fn_index": True}, {}):
            made_up = {"data": [], "session_hash": "made-up"} | body
            for path in ("run/predict", "queue/join", "run/nothing", "call/nothing", "call/v2/nothing"):
                assert guest.post(f"{API}/{path}", json=made_up).status_code == 404, (path, body)
        event = event_of(guest, "undo")
        for data in ([], ["x" * 1000] * len(event["inputs"])):  # type: ignore[arg-type]
            wrong = {"fn_index": event["id"], "data": data, "session_hash": "made-up"}
            assert guest.post(f"{API}/run/predict", json=wrong).status_code == 500
        for history in (["x"], "x", [{"role": "system", "content": "x"}], 3):
            answer = guest.post(f"{API}/run/chat", json={"data": ["hello", history]})
            assert answer.status_code == 500
        for path in ("queue/data?session_hash=made-up", "call/chat/made-up"):
            with contextlib.suppress(httpx.RemoteProtocolError):
                guest.get(f"{API}/{path}", timeout=5)
    written = app.log[before:]
    assert "Traceback" not in written
    assert "xxxx" not in written
    assert len(written) < 2_000


def test_a_guest_has_a_bound_of_streams_and_may_try_again(app: ServerProcess) -> None:
    """A browser that opens the heartbeat of its page once more, as after an error, gets it."""
    with guest_of(app) as guest, contextlib.ExitStack() as pages:
        statuses = [
            pages.enter_context(guest.stream("GET", f"{API}/heartbeat/page-{number // 2}")).status_code
            for number in range(MOST_STREAMS + 1)
        ]
        assert statuses == [200] * MOST_STREAMS + [503]
        with guest_of(app) as another, another.stream("GET", f"{API}/heartbeat/theirs") as theirs:
            assert theirs.status_code == 200


def first_lines(stream: httpx.Response) -> list[str]:
    return [next(stream.iter_lines())]


def test_guests_leave_half_of_the_connections_to_the_owner(app: ServerProcess) -> None:
    with contextlib.ExitStack() as open_here:
        opened, guests = 0, [open_here.enter_context(guest_of(app)) for _ in range(2)]
        for guest in guests:
            for _ in range(MOST_STREAMS):
                page = f"{API}/heartbeat/{secrets.token_hex(5)}"
                opened += open_here.enter_context(guest.stream("GET", page)).status_code == 200
        assert opened == CONNECTIONS // 2
        refused = httpx.get(app.url, timeout=10)
        assert refused.status_code == 503
        assert httpx.get(f"{app.url}/health", timeout=10).status_code == 200
        assert httpx.get(f"{app.url}/config", headers=OWNER, timeout=10).status_code == 200


def connect(app: ServerProcess, text: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", app.port), timeout=20)
    connection.sendall(text)
    return connection


def test_a_wave_of_half_heads_keeps_nobody_out(app: ServerProcess) -> None:
    """More than there are places, or descriptors: they make room for whoever asks for something."""
    before = len(app.log)
    resource.prlimit(app.process.pid, resource.RLIMIT_NOFILE, (256, 256))
    with contextlib.ExitStack() as wave:
        for _ in range(400):
            wave.enter_context(connect(app, b"GET / HTTP/1.1\r\nHost: x\r\n"))
        assert httpx.get(f"{app.url}/health", timeout=5).status_code == 200
        assert httpx.get(f"{app.url}/config", headers=OWNER, timeout=5).status_code == 200
        with guest_of(app) as guest, guest.stream("GET", f"{API}/heartbeat/in-the-wave") as page:
            wave.enter_context(connect(app, b"GET"))
            assert first_lines(page) == ["data: ALIVE"]
    assert len(app.log) == before


def test_who_is_no_owner_keeps_no_connection(app: ServerProcess) -> None:
    """Else half a head after an answer would hold a place for ever."""
    asked = b" /health HTTP/1.1\r\nHost: x\r\n\r\n"
    for request in (
        b"GET" + asked,
        b"POST" + asked.replace(b"health", b"predict"),
        b"GET /?token=x" + asked[8:],
    ):
        with connect(app, request) as connection:
            reply = b""
            while part := connection.recv(65_536):
                reply += part
            assert b"connection: close" in reply.lower()


def test_guesses_that_end_together_are_counted(closed_app: ServerProcess) -> None:
    """All are waited for, then all bodies come: only 20 are looked at, and not the right one."""
    guesses = [f"password=wrong-{number:03}" for number in range(59)]
    guesses.insert(50, f"password={PASSWORD.replace(' ', '+')}")
    head = "POST /login HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n"
    with contextlib.ExitStack() as wave:
        waiting = [wave.enter_context(connect(closed_app, head.format(len(g)).encode())) for g in guesses]
        for connection in waiting:  # the server asks for the body
            assert connection.recv(65_536).startswith(b"HTTP/1.1 100 ")
        for connection, guess in zip(waiting, guesses, strict=True):
            connection.sendall(guess.encode())
        replies = [connection.recv(65_536).decode() for connection in waiting]
    statuses = [re.match(r"HTTP/1.1 (\d+)", reply)[1] for reply in replies]  # type: ignore[index]
    assert statuses.count("403") == 20
    assert "303" not in statuses
    assert not any("set-cookie" in reply.lower() for reply in replies)


def test_a_probe_without_credentials(app: ServerProcess, upstream: FakeOpenAI) -> None:
    before = len(app.log)
    with httpx.Client(base_url=app.url, timeout=20) as stranger:
        assert stranger.head("/health").status_code == 200
        assert stranger.head("/ready").status_code == 200
        told = stranger.get("/ready")
    assert told.json()["ready"] is True
    assert "inner-model" not in told.text
    assert len(app.log) == before
