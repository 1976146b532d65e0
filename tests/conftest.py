"""What every test gets: a clean environment, no network, no cached answers, and a check for leftovers."""

import asyncio
import faulthandler
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import hypothesis
import pytest

from tests.environment import refuse_other_hosts, scrubbed
from tests.fake_openai import FakeOpenAI
from tests.processes import describe, live_children, running_app, wait_until

# Some libraries read the environment when they are imported (DSPY_CACHEDIR, the cost map of LiteLLM),
# and test modules import them before any fixture runs.
_session_home = tempfile.TemporaryDirectory(prefix="dspy-demo-tests-", ignore_cleanup_errors=True)
mock.patch.dict(os.environ, scrubbed(os.environ, Path(_session_home.name)), clear=True).start()

# A busy machine is slow, and no test is about that.
_too_slow = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("unhurried", deadline=None, suppress_health_check=_too_slow)
hypothesis.settings.load_profile("unhurried")

LEFTOVER_DEADLINE_S = 5.0
#: Of a test; and of one that is marked `integration` or `browser`.
DEADLINE_S, SLOW_DEADLINE_S = 60, 240


def pytest_addoption(parser):
    parser.addoption("--house", help="the checkout that tests/black_box runs; this one without it")


@pytest.fixture(autouse=True)
def watchdog(request):
    """A test that hangs fails, and shows where every thread stood."""
    slow = any(request.node.get_closest_marker(name) for name in ("integration", "browser"))
    deadline_s = SLOW_DEADLINE_S if slow else DEADLINE_S

    def give_up(*_):
        faulthandler.dump_traceback(sys.__stderr__ or sys.stderr)
        raise TimeoutError(f"the test ran for {deadline_s} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(deadline_s)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def home(tmp_path):
    """The home folder of this test and of the processes that it starts."""
    path = tmp_path / "home"
    path.mkdir()
    return path


@pytest.fixture
def data_dir(tmp_path):
    """A data folder for the app, empty."""
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.fixture(autouse=True)
def scrubbed_environment(home):
    with mock.patch.dict(os.environ, scrubbed(os.environ, home), clear=True):
        yield


@pytest.fixture(autouse=True)
def blocked_connections(monkeypatch):
    """Refused hosts so far; any at the end fails the test, unless it expects them and clears the list."""
    refused = refuse_other_hosts(monkeypatch)
    yield refused
    assert not refused, f"the test tried to reach {refused}"


@pytest.fixture(autouse=True)
def fresh_dspy_cache():
    """An answer that another test paid for must not be found: a new cache, in memory only."""
    if dspy := sys.modules.get("dspy"):
        dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)


@pytest.fixture(autouse=True)
def forgotten_modules(tmp_path):
    """What a test imported from a folder of its own is not there for the next one."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name, module in sys.modules.copy().items():
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def no_leftover_processes():
    before = live_children()
    yield
    try:
        wait_until(lambda: live_children() <= before, LEFTOVER_DEADLINE_S, "child processes end")
    except TimeoutError:
        pytest.fail(f"child processes left behind: {describe(live_children() - before)}")


@pytest.fixture(autouse=True)
async def no_leftover_streams():
    """Every stream has let go of its upstream when the test ends (`dspy_demo.streaming.turn_stream`)."""
    yield
    streams = {task for task in asyncio.all_tasks() if task.get_name() == "turn-stream"}
    if streams:
        _, left = await asyncio.wait(streams, timeout=LEFTOVER_DEADLINE_S)
        assert not left, f"streams left behind: {left}"


@pytest.fixture
def fake_openai():
    """An OpenAI-compatible server of this test's own; `tests/fake_openai.py` says what it can do."""
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture(scope="module")
def upstream():
    """The same for all tests of a module, beside an app that is started once for them."""
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture
def server_process(data_dir, home):
    """Start the app: ``server_process("--lm", "openai/fake", env={"OPENAI_API_KEY": "k"})``.

    At the end of the test its process group gets SIGTERM and has to be gone within 15 s.
    """
    with ExitStack() as running:

        def start(*args, env=None, data_dir=data_dir):
            return running.enter_context(running_app(*args, data_dir=data_dir, home=home, env=env))

        yield start
