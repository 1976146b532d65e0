"""Who is measured: this checkout, another one, and peers. All are processes, met from outside."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import Process, running
from benchmarks.upstream import Upstream
from tests.fake_openai import free_port
from tests.processes import REPO

QUESTION = "What is the answer?"


@dataclass(frozen=True)
class House:
    """A checkout of this project."""

    name: str
    checkout: Path

    @contextmanager
    def app(
        self, upstream: Upstream, *, ready_path: str = "/health", data_dir: Path | None = None
    ) -> Iterator[Process]:
        """``python app.py`` with the upstream as its model; cache and tracing are off."""
        model = ["--lm", "openai/fake", "--api-base", upstream.url, "--no-cache", "--no-open"]
        with self.server("app.py", *model, ready_path=ready_path, data_dir=data_dir) as process:
            yield process

    @contextmanager
    def server(self, *command: str, ready_path: str, data_dir: Path | None = None) -> Iterator[Process]:
        """``python COMMAND`` of this checkout, listening on a free port."""
        port = free_port()
        line = [*command, "--host", "127.0.0.1", "--port", str(port)]
        line += ["--data-dir", str(data_dir)] if data_dir else []
        env = {"OPENAI_API_KEY": "none"}
        with running(line, port, ready_path=ready_path, env=env, cwd=self.checkout) as process:
            yield process


def houses(before: Path | None) -> list[House]:
    """This one, and the one before where a path is given."""
    return [House("ours", REPO), *([House("before", before.resolve())] if before else [])]


@contextmanager
def peer(name: str, *arguments: str, ready_path: str = "/") -> Iterator[Process]:
    """A server of ``benchmarks/peers``."""
    port = free_port()
    command = ["-m", f"benchmarks.peers.{name}", "--port", str(port), *arguments]
    with running(command, port, ready_path=ready_path, env={}) as process:
        yield process
