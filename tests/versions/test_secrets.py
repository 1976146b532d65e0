"""No secret and nobody's words in what is logged: every byte of the store is searched, and what is said."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dspy
import pytest
import yaml
from pydantic import SecretStr

from dspy_demo.backends.local import LocalBackend
from dspy_demo.errors import DemoError, InvalidInput
from dspy_demo.events import LMChoice, LocalTarget, Message, TurnFinished, TurnRequest
from dspy_demo.lm.catalog import LMCatalog
from dspy_demo.lm.choices import Detection
from dspy_demo.programs.own import load_program
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from dspy_demo.versions import LogRequest, VersionStore
from dspy_demo.versions.secrets import public_url
from tests.fake_openai import FakeOpenAI

BUILTIN = LMChoice("demo/engine")
Make = Callable[[str, str], ProgramRegistry]
#: What is planted; it looks like nothing in particular.
PLANTED = "planted-Value-1f9"
ANOTHER = "planted-Other-2a7"
USER_TEXT = "planted user words about a private matter"
EARLIER_TEXT = "planted earlier words"


def found_in(folder: Path, *planted: str) -> list[tuple[str, str]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [(text, str(path)) for path in files for text in planted if text.encode() in path.read_bytes()]


async def test_what_turns_and_models_hold_stays_out(
    store: VersionStore,
    store_dir: Path,
    artifacts: Callable[[str], Path],
    name: str,
    fake_openai: FakeOpenAI,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Keys, headers, account and words: in the program's models, in DSPy's settings, in an earlier turn."""
    keys = [f"planted-key-{number}" for number in range(9)]
    monkeypatch.setenv("OPENAI_API_KEY", keys[0])
    settings = Settings.load(["--data-dir", str(store_dir)], {"OPENAI_API_KEY": keys[0]})
    base = fake_openai.url.replace("://", f"://user:{keys[1]}@") + f"?api_key={keys[2]}&api-version=1"
    choice = LMChoice("openai/fake", base, SecretStr(keys[3]), temperature=0.2, cache=False)
    registry = ProgramRegistry(SHIPPED)
    backend = LocalBackend(settings, registry, LMCatalog(settings, Detection(choice, "", ())))
    reachable = LMChoice("openai/fake", fake_openai.url, SecretStr(keys[3]), cache=False)
    request = TurnRequest(
        LocalTarget("chain_of_thought", reachable),
        {"question": USER_TEXT},
        (Message("user", EARLIER_TEXT), Message("assistant", EARLIER_TEXT)),
    )
    assert isinstance([event async for event in backend.stream(request)][-1], TurnFinished)
    await backend.aclose()

    module = registry.module("chain_of_thought")
    held = dspy.LM(
        "openai/held",
        api_key=keys[4],
        api_base=f"https://u:{keys[5]}@gateway.test/v1",
        extra_headers={"Authorization": f"Bearer {keys[6]}"},
        extra_body={"api_key": keys[7], "tenant": ANOTHER, "top_k": 5},
        organization=ANOTHER,
        user=ANOTHER,
    )
    held.history.append({"prompt": USER_TEXT})
    module.predict.lm = held
    module.judges = {"second": [held]}
    module.history.append({"prompt": USER_TEXT})
    module.predict.traces.append((USER_TEXT,))
    configured = dspy.LM("openai/configured", api_key=keys[8])
    configured.history.append({"prompt": USER_TEXT})
    with dspy.context(lm=configured, own_setting=keys[8], trace=[USER_TEXT], callbacks=[object()]):
        version = VersionStore(settings).log(LogRequest(name, "chain_of_thought", choice, "text"), registry)

    planted = (*keys, ANOTHER, USER_TEXT, EARLIER_TEXT)
    assert found_in(store_dir, *planted) == []
    printed = capfd.readouterr()
    assert not [text for text in planted if text in caplog.text + printed.out + printed.err]
    (noted,) = (yaml.safe_load(path.read_text()) for path in artifacts(version.uri).glob("MLmodel"))
    lm = noted["metadata"]["dspy_demo"]["lm"]
    assert (lm["temperature"], lm["api_base"]) == (0.2, fake_openai.url + "?api-version=1")
    loaded = store.load(version.uri).build()
    lm = loaded.predict.lm
    assert lm.model == "openai/held" and lm.kwargs["extra_body"] == {"top_k": 5}
    assert loaded.predict.traces == []
    assert loaded.judges["second"][0] is lm
    assert held.kwargs["api_key"] == keys[4], "the running program is left as it was"


# --- what a program holds or its source says ---

PROGRAM = """import os
from pathlib import Path
import dspy
{before}
class Keyed(dspy.Module):
    def __init__(self):
        super().__init__()
        self.ask = dspy.Predict('question -> answer')
        {held}
    def forward(self, question: str):
        return self.ask(question=question)
program = Keyed()
"""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Make]:
    """A program that begins with some lines and keeps something."""
    folder, numbers = tmp_path / "own", itertools.count()
    folder.mkdir()

    def make(before: str, held: str = "pass") -> ProgramRegistry:
        os.environ.pop("SOME_TOKEN", None)  # which the program before may have set
        path = folder / f"keyed_{abs(hash(tmp_path)) % 10**8}_{next(numbers)}.py"
        path.write_text(PROGRAM.format(before=before, held=held))
        return ProgramRegistry([load_program(str(path))])

    yield make
    for module in [name for name in sys.modules if name.startswith("keyed_")]:
        del sys.modules[module]


def refusal(store: VersionStore, folder: Path, request: LogRequest, programs: ProgramRegistry) -> str:
    """The sentence; nothing planted is in it or in the store."""
    with pytest.raises(DemoError) as caught:
        store.log(request, programs)
    assert found_in(folder, PLANTED, ANOTHER) == []
    assert not store.tracking.client.search_registered_models(f"name='{request.name}'")
    message = caught.value.public_message
    assert PLANTED not in message and ANOTHER not in message
    return message


LM = "self.lm = dspy.LM('openai/m', {})"


#: What the program keeps, or what its source says, and what is said of it.
HELD = {
    f'self.conf = {{"api_key": "{PLANTED}"}}': "“api_key”",
    f'self.url = "https://me:{PLANTED}@db.test/x"': "address with a password",
    f'self.client_token = "{PLANTED}"': "“client_token”",
    f'self.headers = [("X-Api-Key", "{PLANTED}")]': "“X-Api-Key”",
    "self.anything = os.environ['MYCORP_TOKEN']": "the value of MYCORP_TOKEN",
    LM.format(f"api_key='{PLANTED}'"): "“api_key”",
    LM.format(f"extra_body={{'api_key': '{PLANTED}'}}"): "“api_key”",
    LM.format(f"extra_body={{'tenant': '{PLANTED}'}}"): "“tenant”",
    LM.format(f"extra_headers={{'X-Api-Key': '{PLANTED}'}}"): "“X-Api-Key”",
    LM.format(f"api_base='http://me:{PLANTED}@gw.test/v1'"): "of a language model",
}
WRITTEN = {
    f"JUDGE = dspy.LM('openai/m', api_key='{PLANTED}')": "“api_key”, in code/keyed_",
    f"DB_PASSWORD = '{PLANTED}'": "“DB_PASSWORD”, in code/keyed_",
    f"os.environ['SOME_TOKEN'] = '{PLANTED}'": "SOME_TOKEN, in code",
    f"URL = 'https://gw.test/v1?access_token={PLANTED}'": "“access_token”",
    f"# {PLANTED}": "the value of MYCORP_TOKEN, in code/keyed_",
    "KEY = 'sk-proj-" + "a1B2" * 12 + "'": "looks like an API key",
}


def test_a_secret_of_a_program_is_refused_by_its_place(
    store: VersionStore, store_dir: Path, name: str, program: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [("", line, said) for line, said in HELD.items()]
    for before, held, said in cases + [(line, "pass", said) for line, said in WRITTEN.items()]:
        monkeypatch.setenv("MYCORP_TOKEN", PLANTED if "MYCORP" in said else "something else in it")
        programs = program(before, held)
        request = LogRequest(name, programs.default.name, BUILTIN)
        assert said in refusal(store, store_dir, request, programs), (before, held)


def test_a_secret_in_a_file_that_the_program_opens_is_refused(
    store: VersionStore, store_dir: Path, name: str, program: Make, tmp_path: Path
) -> None:
    (tmp_path / "own" / "service.json").write_text(f'{{"private_key": "{PLANTED}"}}')
    programs = program("DATA = (Path(__file__).parent / 'service.json').read_text()", "pass")
    said = refusal(store, store_dir, LogRequest(name, programs.default.name, BUILTIN), programs)
    assert "“private_key”, in code/service.json, line 1" in said


def test_no_secret_in_what_is_said_of_a_version(
    store_dir: Path, store: VersionStore, programs: ProgramRegistry
) -> None:
    """Each of the owner's, the guests' and the environment's; also where it is edited later."""
    values = [f"{PLANTED}-{number}" for number in range(7)]
    settings = Settings(
        data_dir=store_dir,
        owner_token=SecretStr(values[0]),
        guest_token=SecretStr(values[1]),
        guest_password=SecretStr(values[2]),
        api_key=SecretStr(values[3]),
        served_url=f"http://me:{values[4]}@host.test/?api_key={values[5]}",
    )
    other = VersionStore(settings, dict(os.environ) | {"AZURE_API_KEY": values[6], "OUR_PASSWORD": ANOTHER})
    for value in (*values, ANOTHER, f"api_key='{PLANTED}'"):
        for request in (
            LogRequest(f"a {value}", "predict", BUILTIN),
            LogRequest("noted", "predict", BUILTIN, f"with {value}!"),
            LogRequest("noted", "predict", BUILTIN, tags={"a": value}),
        ):
            with pytest.raises(InvalidInput, match="hold") as caught:
                other.log(request, programs)
            assert value not in caught.value.public_message
        for description, tags in ((f"with {value}!", {}), ("", {value: "b"})):
            with pytest.raises(InvalidInput, match="hold"):
                other.edit("models:/noted/1", description, tags)


@pytest.mark.usefixtures("ready_files")
def test_variables_that_are_no_secrets_stop_nothing(
    store_dir: Path, name: str, program: Make, tmp_path: Path
) -> None:
    environ = dict(os.environ) | {
        "TOKENIZERS_PARALLELISM": "false",
        "MAX_TOKENS": "100000000000",
        "KEY_FILE": str(tmp_path),
        "TOKEN_URL": "https://login.example.org/token",
        "SECRET_BACKEND": "secret_backend",
        "TOKENIZER_MODEL": "openai/some-model-name",
    }
    used = f"LIMIT = 100000000000\nsecret_backend = None\nPLACE = '{tmp_path}'\nURL = 'https://login.example.org/token'"
    words = "self.token = 'question'\n        self.api_key_name = self.api_key = 'MYCORP_API_KEY'"
    programs = program(used, words)
    other = VersionStore(Settings(data_dir=store_dir), environ)
    choice = LMChoice("openai/some-model-name", api_key=SecretStr("none"))
    assert other.log(LogRequest(name, programs.default.name, choice, "false"), programs).version == 1


def test_an_address_is_shown_without_credentials() -> None:
    assert (
        public_url("https://token@[::1]:8000/v1?key=x&sig=2&api-version=4#f")
        == "https://[::1]:8000/v1?api-version=4"
    )
