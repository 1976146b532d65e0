"""What a stranger or a guest tried against the real app, over real connections; each of it worked once."""

import contextlib
import json
import os
import resource
import secrets
import select
import socket
import stat

import httpx
import pytest

from dspy_demo.web.gradio_routes import MOST_STREAMS
from tests.processes import REPO, running_app, wait_until

pytestmark = pytest.mark.integration

API = "/gradio_api"
OWNER = {"authorization": "Bearer owner-token-0123456789"}
CONNECTIONS = 100
SECRET = "canary-7f3a"
STOLEN = "data/run/secret.txt"
#: More than either page has; ids that only the owner's page knows are called on the guests' too.
FN_INDEXES = 80
CLICKS = [{"do": do, "uri": "models:/dspy-demo/1"} for do in ("serve", "edit", "restart", "load")]
FILE_WAYS = """/gradio_api/file={0} /gradio_api/file/{0} /gradio_api/file=file://{0} /file={0}
//gradio_api/file={0} /static/{1}{0} /assets/{1}{0} /svelte/{1}{0} /static/{0} /assets/{0}
/static/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f..{0} /GRADIO_API/file={0} /gradio_api%2ffile={0}
/assets/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/{0} /gradio_api/./file={0}
/assets/..%252f..%252f..%252f..%252f{0} /gradio_api/heartbeat/../file={0}
/?deep_link={1}{0} /config?deep_link={1}{0}"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Something to steal in the data folder, as an earlier start left it, and in Gradio's own."""
    home = tmp_path_factory.mktemp("attacks")
    for folder in ("data/run", "gradio/0"):
        (home / folder).mkdir(parents=True)
    (home / "data/mlflow.db").touch(0o644)
    for name in (STOLEN, "gradio/0/own.txt"):
        (home / name).write_text(SECRET)
    (home / "gradio/0/link.txt").symlink_to(home / STOLEN)
    return home


@pytest.fixture(scope="module")
def app(upstream, home):
    flags = ["--public", "--lm", "openai/inner-model", "--api-base", upstream.url]
    flags += ["--max-connections", str(CONNECTIONS), "--guest-programs", "predict,react"]
    env = {"OPENAI_API_KEY": "sk-x", "DEMO_SECRET": SECRET, "GRADIO_TEMP_DIR": str(home / "gradio")}
    env |= {"DSPY_DEMO_OWNER_TOKEN": OWNER["authorization"].split()[1], "DSPY_DEMO_TRACING": "1"}
    before = os.umask(0o022)  # the usual one, and not the app's
    with running_app(*flags, data_dir=home / "data", home=home, env=env) as server:
        os.umask(before)
        yield server


@pytest.fixture
def browse(app):
    """Opens a browser: a guest's with a session of its own, or the owner's."""
    with contextlib.ExitStack() as opened:

        def browse(headers=None):
            client = opened.enter_context(httpx.Client(base_url=app.url, headers=headers, timeout=120))
            assert client.get("/").status_code == 200
            return client

        yield browse


@pytest.fixture
def owner(browse):
    return browse(OWNER)


@pytest.fixture
def guest(browse):
    return browse()


def events_of(client):
    return client.get("/config").json()["dependencies"]


def event_of(client, name):
    return next(event for event in events_of(client) if event["api_name"] == name)


def test_a_page_holds_no_address_of_the_model(guest, owner, upstream):
    """The pickers' values say which model, and nothing of where it runs; the owner may read it elsewhere."""
    for client in (guest, owner):
        parts = [part["props"] for part in client.get("/config").json()["components"]]
        [models] = [props for props in parts if props.get("elem_id") == "model"]
        assert models["value"] == "openai/inner-model"
        assert not any("://" in value for _, value in models["choices"])
    texts = [guest.get(path).text for path in ("/", "/config", f"{API}/info")]
    assert not any(upstream.url.removeprefix("http://").removesuffix("/v1") in text for text in texts)


def test_nobody_reads_or_ends_the_page_of_another(browse, guest, owner):
    session, owners = secrets.token_hex(6), secrets.token_hex(6)
    load = {"fn_index": event_of(guest, "load")["id"], "data": [None]}
    owners_load = load | {"fn_index": event_of(owner, "load")["id"], "session_hash": owners}
    assert owner.post(f"{API}/queue/join", json=owners_load).status_code == 200
    ends = {"session_hash": session, "fn_index": 0, "event_id": "x"}
    event = {"session_hash": session, "fn_index": 0, "data": [None]}
    victim = browse()
    assert victim.post(f"{API}/queue/join", json=load | {"session_hash": session}).status_code == 200
    tries = [
        guest.get(f"{API}/queue/data", params={"session_hash": session}),
        guest.get(f"{API}/heartbeat/{session}"),
        guest.post(f"{API}/cancel", json=ends),
        guest.post(f"{API}/cancel", json=ends | {"session_hash": owners}),
        guest.post(f"{API}/queue/join", json=event),
        guest.post(f"{API}/run/predict", json=event),
        # In another encoding, or twice: what is judged is what Gradio reads.
        guest.post(f"{API}/cancel", content=json.dumps(ends).encode("utf-16")),
        guest.get(f"{API}/queue/data?session_hash=mine&session_hash={session}"),
    ]
    assert {reply.status_code for reply in tries} == {403}
    assert "another visitor" in tries[0].json()["message"]
    assert guest.post(f"{API}/cancel", json=ends | {"session_hash": "unseen"}).status_code == 404
    assert guest.get(f"{API}/queue/data?session_hash=unseen").status_code == 404
    with victim.stream("GET", f"{API}/queue/data", params={"session_hash": session}) as stream:
        assert any("process_completed" in line for line in stream.iter_lines())


def test_a_body_that_is_too_long_is_refused_with_a_sentence(guest):
    for path in ("cancel", "queue/join"):
        long = guest.post(f"{API}/{path}", content=(b"x" * 100_000 for _ in range(90)))
        assert (long.status_code, long.json()["code"]) == (413, "body_too_large")
    chat = {"fn_index": 0, "data": [["x" * 1_000_000]], "session_hash": "long-chat"}
    assert guest.post(f"{API}/queue/join", json=chat).status_code == 200


def test_events_that_a_guest_makes_up_fill_no_log(app, guest):
    before = len(app.log)
    for body in ({"fn_index": 999}, {"fn_index": "0"}, {"fn_index": [0]}, {"fn_index": True}, {}):
        made_up = {"data": [], "session_hash": "made-up"} | body
        for path in ("run/predict", "queue/join", "run/nothing", "call/nothing", "call/v2/nothing"):
            assert guest.post(f"{API}/{path}", json=made_up).status_code == 404, (path, body)
    undo = event_of(guest, "undo")
    for data in ([], ["x" * 1000] * len(undo["inputs"])):
        wrong = {"fn_index": undo["id"], "data": data, "session_hash": "made-up"}
        assert guest.post(f"{API}/run/predict", json=wrong).status_code == 500
    for history in (["x"], "x", [{"role": "system", "content": "x"}], 3):
        assert guest.post(f"{API}/run/chat", json={"data": ["hello", history]}).status_code == 500
    for path in ("queue/data?session_hash=made-up", "call/chat/made-up"):
        with contextlib.suppress(httpx.RemoteProtocolError):
            guest.get(f"{API}/{path}", timeout=5)
    written = app.log[before:]
    assert "Traceback" not in written and "xxxx" not in written and len(written) < 2_000


def test_a_guest_has_a_bound_of_streams_and_may_try_again(browse, guest):
    """A browser that opens the heartbeat of its page once more, as after an error, gets it."""
    with contextlib.ExitStack() as pages:

        def opened(client, number):
            stream = client.stream("GET", f"{API}/heartbeat/page-{number // 2}")
            return pages.enter_context(stream).status_code

        assert [opened(guest, number) for number in range(MOST_STREAMS)] == [200] * MOST_STREAMS
        assert (opened(guest, MOST_STREAMS), opened(browse(), 10 * MOST_STREAMS)) == (503, 200)


def test_guests_leave_half_of_the_connections_to_the_owner(app, browse, owner):
    guests, held = [browse(), browse()], []
    with contextlib.ExitStack() as streams:

        def opened():  # streams of an earlier test may take a moment to be gone
            stream = guests[len(held) % 2].stream("GET", f"{API}/heartbeat/{secrets.token_hex(5)}")
            held.append(streams.enter_context(stream).status_code)
            return held.count(200) == CONNECTIONS // 2

        wait_until(opened, 20, "guests hold half of the connections")
        assert httpx.get(app.url, timeout=10).status_code == 503
        assert httpx.get(f"{app.url}/health", timeout=10).status_code == 200
        assert owner.get("/config").status_code == 200


def test_no_route_gives_a_file(owner, home):
    files = ["/etc/passwd", "/proc/self/environ", str(REPO / "app.py")]
    files += [str(home / name) for name in (STOLEN, "gradio/0/link.txt", "gradio/0/own.txt")]
    for way in FILE_WAYS.split():
        for file in files:
            request = owner.build_request("GET", "/")  # of just this target, which a client would tidy
            request.url = request.url.copy_with(raw_path=way.format(file, "../" * 12).encode())
            answer = owner.send(request).text
            assert not any(word in answer for word in (SECRET, "root:x:", "application.main")), (way, file)


def test_nothing_is_uploaded_or_fetched_and_no_value_of_an_event_is_a_file(owner, home):
    """Every event of the owner's page, each of its inputs a file."""
    inner = socket.create_server(("127.0.0.1", 0))  # nobody outside may reach it through the app
    url = f"http://127.0.0.1:{inner.getsockname()[1]}/inner.txt"
    before = set((home / "gradio").rglob("*"))
    for way in (f"{API}/file={url}", f"{API}/proxy={url}"):
        assert owner.get(way).status_code == 404
    for path in ("upload", "upload?upload_id=a", "process_recording", "component_server", "upload/"):
        assert owner.post(f"{API}/{path}", files={"files": ("a.txt", b"hello")}).status_code == 404, path
    fetched, read = ({"path": path, "meta": {}} for path in (url, str(home / STOLEN)))
    for event in events_of(owner):
        values = {"data": [read] * len(event["inputs"]), "event_data": fetched}
        body = values | {"fn_index": event["id"], "session_hash": "a1b2c3"}
        for way in ("run/predict", "queue/join"):
            assert owner.post(f"{API}/{way}", json=body).status_code == 403, (way, event["id"])
    for way in ("run/chat", "call/chat", "call/v2/chat"):
        answer = owner.post(f"{API}/{way}", json={"data": [{"text": [fetched]}], "message": read})
        assert answer.status_code == 403, way
    with inner:
        assert not select.select([inner], [], [], 0)[0], "somebody has connected"
    assert set((home / "gradio").rglob("*")) == before


def test_every_endpoint_as_a_guest(guest, owner, home):
    def on_disk():
        return {path.name for path in (home / "data").rglob("*") if "cache" not in path.parts}

    before, known = on_disk(), {event["id"]: event for event in events_of(guest)}
    texts = "".join(guest.get(path).text for path in ("/", "/config", f"{API}/info"))
    for word in ("log-form", "version-list", "server-url", "Another server", "api_key", "Base URL", "Other…"):
        assert word not in texts, word
    assert 0 < len(known) < max(event["id"] for event in events_of(owner)) < FN_INDEXES
    session, sent = secrets.token_hex(5), set()
    for index in range(FN_INDEXES):
        event = known.get(index)
        for click in CLICKS if event is None else CLICKS[:1]:
            data = [None] * len(event["inputs"]) if event else ["models:/dspy-demo/1", "x", "y"]
            body = {"fn_index": index, "data": data, "event_data": click, "trigger_id": index}
            reply = guest.post(f"{API}/queue/join", json=body | {"session_hash": session})
            assert reply.status_code == (200 if event else 404), (index, reply.text)
            if event:
                sent.add(reply.json()["event_id"])
    with guest.stream("GET", f"{API}/queue/data", params={"session_hash": session}) as stream:
        lines = list(stream.iter_lines())  # until each event has ended
    assert {json.loads(line[6:])["event_id"] for line in lines if "process_completed" in line} == sent
    assert "Traceback" not in "".join(lines)
    for name in ("log", "act", "connect", "refresh", "predict"):
        assert guest.post(f"{API}/call/{name}", json={"data": ["x"]}).status_code == 404
    assert on_disk() == before, "an action of the owner left something on the disk"


def test_every_route_as_a_guest_and_as_a_stranger(app, guest, owner):
    paths = guest.get("/openapi.json").json()["paths"]
    assert {"/predict", "/predict/stream", "/v1/chat/completions", "/versions"} <= set(paths)
    before = len(app.log)
    with httpx.Client(base_url=app.url, timeout=30) as stranger:
        for path, methods in paths.items():
            for method in methods:
                reply = stranger.request(method, path.replace("{model_id}", "react"), json={"text": "2 + 2"})
                assert reply.status_code == (200 if path in {"/health", "/ready"} else 401), (method, path)
        assert "inner-model" not in stranger.get("/ready").text
    assert len(app.log) == before
    assert guest.post("/predict", json={"text": "What is 2 + 2?"}).status_code == 200
    for refused in (guest.post("/versions", json={"name": "theirs"}), guest.get("/metrics")):
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    listed = [[one["id"] for one in who.get("/v1/models").json()["data"]] for who in (guest, owner)]
    assert listed[0] == ["predict", "react"] and set(listed[0]) < set(listed[1])
    for name in ("chain_of_thought", "no_such_program"):
        unknown = guest.post("/predict", json={"text": "x", "program": name})
        assert (unknown.status_code, "The programs here are: predict, react." in unknown.text) == (404, True)


def test_what_the_app_keeps_is_for_its_user_alone(owner, home):
    assert owner.post("/predict", json={"text": "What is 2 + 2?"}).status_code == 200
    data = home / "data"
    wait_until((data / "mlflow.db").read_bytes, 20, "the turn is traced")
    assert (data / "session.key").exists()
    for path in set(data.rglob("*")) - {home / STOLEN}:  # which is in a closed folder
        with contextlib.suppress(FileNotFoundError):  # SQLite's journal comes and goes
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def connect(app, text):
    connection = socket.create_connection(("127.0.0.1", app.port), timeout=20)
    connection.sendall(text)
    return connection


def all_of(connection):
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_who_is_no_owner_keeps_no_connection(app):
    """Else half a head after an answer would hold a place for ever."""
    for asked in (b"GET /health", b"POST /predict", b"GET /?token=x"):
        with connect(app, asked + b" HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
            assert b"connection: close" in all_of(connection).lower()


def test_a_refusal_arrives_where_the_body_comes_after_the_head(app):
    """A connection that is closed over an unread body is reset, and the client never sees the sentence."""
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n"
    with connect(app, head) as connection:
        assert not select.select([connection], [], [], 0.3)[0], "it waits for the body"
        connection.sendall(b"{}\n")
        reply = all_of(connection)
        assert b" 401 " in reply and b"Open the page first" in reply


def test_a_wave_of_half_heads_keeps_nobody_out(app, browse, owner):
    """More than there are places, or descriptors: they make room for whoever asks for something."""
    before = len(app.log)
    resource.prlimit(app.process.pid, resource.RLIMIT_NOFILE, (400, 400))
    with contextlib.ExitStack() as wave:
        for _ in range(500):
            wave.enter_context(connect(app, b"GET / HTTP/1.1\r\nHost: x\r\n"))
        assert httpx.get(f"{app.url}/health", timeout=5).status_code == 200
        assert owner.get("/config").status_code == 200
        with browse().stream("GET", f"{API}/heartbeat/in-the-wave") as page:
            wave.enter_context(connect(app, b"GET"))
            assert next(page.iter_lines()) == "data: ALIVE"
    assert len(app.log) == before
