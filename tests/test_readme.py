"""README and docs/ are true: their commands run, their tables are drawn from the code, messages exist."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dspy_demo.settings import documented
from tests.fake_openai import free_port
from tests.processes import ServerProcess, running_app, start_process

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SETTINGS = ROOT / "docs/settings.md"
DOCS = {
    path: path.read_text()
    for path in [ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").glob("*.md")]
}
START, END = "<!-- settings: drawn by tests/test_readme.py -->", "<!-- /settings -->"


def commands(language: str = "bash") -> list[str]:
    """The code blocks of a language, one command each line."""
    blocks = re.findall(rf"```{language}\n(.*?)```", "\n".join(DOCS.values()), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line and not line.startswith("#")]


def settings_table() -> str:
    rows = ["| flag | variable | default | unit and bounds | meaning |", "|---|---|---|---|---|"]
    for row in documented():
        limits = "; ".join(part for part in (row["unit"], row["bounds"]) if part)
        variables = ", ".join(f"`{name}`" for name in row["env"].split(", "))
        default = f"`{row['default']}`" if row["default"] else ""
        rows.append(f"| `{row['flag']}` | {variables} | {default} | {limits} | {row['meaning']} |")
    return "\n".join(rows)


def test_the_settings_table_is_the_one_of_the_code():
    """Run ``python -m tests.test_readme`` to draw it anew."""
    shown = SETTINGS.read_text().split(START)[1].split(END)[0].strip()
    assert shown == settings_table()


def test_the_two_lines_name_files_that_exist():
    run_line, test_line = (line for line in commands() if line.startswith("python3 -m venv"))
    for line in (run_line, test_line):
        requirements = re.search(r"-r (\S+)", line)
        assert requirements and (ROOT / requirements[1]).is_file()
    assert "app.py" in run_line and "pytest" in test_line and test_line in README


def test_links_pictures_and_files_of_the_code_that_are_named_exist():
    for path, text in DOCS.items():
        for target in re.findall(r"\]\((?!http)([^)#]+)[)#]", text):
            assert (path.parent / target).exists(), (path.name, target)
        for name in re.findall(r"`([a-z_/0-9]+\.py)`", text):
            assert (ROOT / name).exists() or (ROOT / "dspy_demo" / name).exists(), (path.name, name)


def test_the_documents_are_short_enough_to_be_read():
    assert len(README.splitlines()) <= 200
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= 150


def test_every_flag_in_the_text_exists():
    flags = {flag for row in documented() for flag in row["flag"].split(" / ")}
    extra = {"--name", "--description", "--tag", "--tracking-uri", "--open", "--no-open", "--help"}
    extra |= {"--json", "--plot", "--before", "--house", "--allow-host"}
    foreign = {"--env-manager", "--no-deps"}
    for path, text in DOCS.items():
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
            assert flag in flags | extra | foreign, (path.name, flag)


def test_messages_of_the_troubleshooting_table_are_in_the_code():
    paths = [path for path in (ROOT / "dspy_demo").rglob("*") if path.suffix in {".py", ".html"}]
    code = "\n".join(path.read_text() for path in paths)
    plain = re.sub(r"</?b>|\"\s*\n\s*f?\"|\{[^{}\n]*\}", "", code)
    table = DOCS[ROOT / "docs/guide.md"].split("## What an error means")[1]
    for message in re.findall(r"^\| “(.+?)”", table, re.MULTILINE):
        for part in re.split(r"…|\d+", message):
            if len(part.strip()) > 6:
                assert part.strip() in plain, message


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


@pytest.fixture(scope="module")
def app(home: Path) -> Iterator[ServerProcess]:
    with running_app(data_dir=home / ".local/share/dspy-demo", home=home) as server:
        yield server


def pasted(line: str, **options: Any) -> str:
    done = subprocess.run(shlex.split(line), capture_output=True, text=True, timeout=120, **options)
    assert done.returncode == 0, (line, done.stderr)
    return done.stdout


@pytest.mark.integration
def test_the_commands_work_as_pasted(app, home, tmp_path):
    """On one app; a version that it logged is then served. The black box runs ``app.py log``."""
    lines = [line for line in commands() if line.startswith("curl") and ":7860" in line]
    assert len(lines) >= 5
    for line in lines:
        answer = pasted(line.replace("http://127.0.0.1:7860", app.url))
        assert answer and '"error"' not in answer, (line, answer)
    assert httpx.get(f"{app.url}/docs").status_code == 200
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "OpenAI" in block)
    code = code.replace("http://127.0.0.1:7860", app.url)
    assert "2 + 2 = 4." in pasted(shlex.join([sys.executable, "-c", code]))

    serve = next(line for line in commands() if "-m dspy_demo.serving" in line)
    command = shlex.split(serve.replace("5001", str(port := free_port())))[1:]
    server = start_process(command, port=port, home=home)
    try:
        image = next(line for line in commands() if "generate-dockerfile" in line)
        uri = f"sqlite:///{home}/.local/share/dspy-demo/mlflow.db"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        pasted(image, cwd=tmp_path, env=os.environ | {"MLFLOW_TRACKING_URI": uri, "PATH": path})
        assert (tmp_path / "demo-image" / "Dockerfile").is_file()
        server.wait_until_healthy("/ping")
        for line in (line for line in commands() if line.startswith("curl") and ":5001" in line):
            answer = pasted(line.replace("5001", str(port)))
            assert "2 + 2 = 4." in answer and ("choices" in answer or "[DONE]" in answer)
    finally:
        server.stop()


if __name__ == "__main__":
    before, _, rest = SETTINGS.read_text().partition(START)
    _, _, after = rest.partition(END)
    SETTINGS.write_text(f"{before}{START}\n{settings_table()}\n{END}{after}")
