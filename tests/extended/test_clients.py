"""The clients that people use, as they are: they chat, stream, stop and keep history with tools offered.

Each is a small script in an environment of its own; `.ci/run` shows how the environments are made.
"""

import json
import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.environment import scrubbed
from tests.fake_openai import Reply
from tests.processes import REPO, running_app

pytestmark = [pytest.mark.extended, pytest.mark.integration]

IN_PYTHON = [f"clients/{name}_sdk.py" for name in ("openai", "agents", "pydantic_ai", "langchain")]


@pytest.fixture(scope="module")
def app(upstream, tmp_path_factory):
    home = tmp_path_factory.mktemp("extended")
    model = ("--lm", "openai/fake", "--api-base", upstream.url, "--no-cache")
    with running_app(*model, data_dir=home / "data", home=home) as server:
        yield server


def slowly(request):
    """An answer that nobody waits for, to the question that asks for it."""
    if "Tell me slowly" in json.dumps(request["messages"][-1]):
        return Reply(tokens_per_second=50, fields={"reasoning": "So.", "answer": "word " * 5000})
    return None


@pytest.mark.parametrize("script", [*IN_PYTHON, "node/ai_sdk.js"])
def test_a_client_works_as_with_openai(app, upstream, home, script):
    upstream.reset()
    upstream.respond_with(slowly)
    program = shutil.which("node" if script.endswith(".js") else REPO / ".venv-clients/bin/python")
    if program is None:
        reason = f"{script} has no environment; .ci/run makes it"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    command = [program, Path(__file__).parent / script, f"{app.url}/v1", "chain_of_thought"]
    env = scrubbed(os.environ, home) | {"OPENAI_AGENTS_DISABLE_TRACING": "1"}
    told, pipes = {}, dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, env=env, cwd=home, text=True, **pipes) as process, ExitStack() as end:
        end.callback(process.kill)
        while "stopped" not in told and (line := process.stdout.readline()):
            if line.startswith("{"):
                step = json.loads(line)
                told[step.pop("step")] = step
        assert "stopped" in told, process.stderr.read()
        upstream.wait_for(lambda: upstream.streams[-1].client_left, 5)
        assert upstream.streams[-1].tokens_sent < 500  # of 5,000: it was stopped while it streamed
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait(30) == 0, process.stderr.read()
    assert "visitor-7" in told["chat"]["text"]
    assert "visitor-7" in "".join(told["stream"]["pieces"])
    assert told["history"]["text"]
    chats = [request.json["messages"] for request in upstream.requests]
    [earlier] = [messages[:-1] for messages in chats if "Who am I?" in json.dumps(messages[-1])]
    assert "visitor-7" in json.dumps(earlier)
    assert "visitor-7" in told["structured"]["text"]
