"""What every test gets: a clean environment, no network, no cached answers, and a check for leftovers."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest

from tests import fake_openai as fakes
from tests import network_guard
from tests.environment import environment, scrubbed
from tests.fake_openai import FakeOpenAI
from tests.processes import ServerProcess, describe, live_children, running_app, wait_until

# Some libraries read the environment when they are imported (DSPY_CACHEDIR, the cost map of LiteLLM),
# and test modules import them before any fixture runs.
_session_home = tempfile.TemporaryDirectory(prefix="dspy-demo-tests-", ignore_cleanup_errors=True)
_clean = scrubbed(os.environ, Path(_session_home.name))
os.environ.clear()
os.environ.update(_clean)

# A busy machine is slow, and no test is about that.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")

LEFTOVER_DEADLINE_S = 5.0
TEST_DEADLINE_S = 60
SERVER_TEST_DEADLINE_S = 240  # marked `integration` or `browser`


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--house", help="the checkout that tests/black_box runs; this one without it")


@pytest.fixture(autouse=True)
def watchdog(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that hangs fails, and shows where every thread stood."""
    slow = any(request.node.get_closest_marker(name) for name in ("integration", "browser"))
    deadline_s = SERVER_TEST_DEADLINE_S if slow else TEST_DEADLINE_S

    def give_up(*_: object) -> None:
        faulthandler.dump_traceback(sys.__stderr__ or sys.stderr)
        raise TimeoutError(f"the test ran for {deadline_s} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(deadline_s)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home folder of this test and of the processes that it starts."""
    path = tmp_path / "home"
    path.mkdir()
    return path


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data folder for the app, empty."""
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.fixture(autouse=True)
def scrubbed_environment(home: Path) -> Iterator[None]:
    with environment(scrubbed(os.environ, home)):
        yield


@pytest.fixture(autouse=True)
def blocked_connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Refused hosts so far; any at the end fails the test, unless it expects them and clears the list."""
    refused = network_guard.install(monkeypatch)
    yield refused
    assert not refused, f"the test tried to reach {refused}"


@pytest.fixture(autouse=True)
def fresh_dspy_cache() -> None:
    """An answer that another test paid for must not be found: a new cache, in memory only."""
    if dspy := sys.modules.get("dspy"):
        dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)


@pytest.fixture(autouse=True)
def forgotten_modules(tmp_path: Path) -> Iterator[None]:
    """What a test imported from a folder of its own is not there for the next one."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def no_leftover_processes() -> Iterator[None]:
    before = live_children()
    yield
    try:
        wait_until(lambda: live_children() <= before, LEFTOVER_DEADLINE_S, "child processes end")
    except TimeoutError:
        pytest.fail(f"child processes left behind: {describe(live_children() - before)}")


@pytest.fixture(autouse=True)
async def no_leftover_streams() -> AsyncIterator[None]:
    """Every stream has let go of its upstream when the test ends (`dspy_demo.streaming.turn_stream`)."""
    yield
    streams = {task for task in asyncio.all_tasks() if task.get_name() == "turn-stream"}
    if streams:
        _, left = await asyncio.wait(streams, timeout=LEFTOVER_DEADLINE_S)
        assert not left, f"streams left behind: {left}"


@pytest.fixture
def free_port() -> Callable[[], int]:
    return fakes.free_port


@pytest.fixture
def fake_openai() -> Iterator[FakeOpenAI]:
    """An OpenAI-compatible server of this test's own; `tests/fake_openai.py` says what it can do."""
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeOpenAI]:
    """The same for all tests of a module, beside an app that is started once for them."""
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture
def server_process(data_dir: Path, home: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Start the app: ``server_process("--lm", "openai/fake", env={"OPENAI_API_KEY": "k"})``.

    At the end of the test its process group gets SIGTERM and has to be gone within 15 s.
    """
    with ExitStack() as running:

        def start(*args: str, env: dict[str, str] | None = None, data_dir: Path = data_dir) -> ServerProcess:
            return running.enter_context(running_app(*args, data_dir=data_dir, home=home, env=env))

        yield start
