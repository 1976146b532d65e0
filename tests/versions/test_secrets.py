"""No key and nobody's words in what is logged: every byte of the store is searched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dspy
import pytest
from pydantic import SecretStr

from dspy_demo.backends.local import LocalBackend
from dspy_demo.errors import InvalidInput, VersionNotLogged
from dspy_demo.events import LMChoice, LocalTarget, Message, TurnFinished, TurnRequest
from dspy_demo.lm.catalog import LMCatalog
from dspy_demo.lm.detection import Detection
from dspy_demo.programs.loading import load_program
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from dspy_demo.versions import LogRequest, VersionStore
from dspy_demo.versions.confidential import public_url
from tests.fake_openai import FakeOpenAI

ENV_KEY = "planted-environment-key-1"
TYPED_KEY = "planted-typed-key-2"
URL_PASSWORD = "planted-url-password-3"
QUERY_KEY = "planted-query-key-4"
HEADER_KEY = "planted-header-key-5"
HELD_KEY = "planted-held-key-6"
CONFIGURED_KEY = "planted-configured-key-7"
USER_TEXT = "planted user words about a private matter"
EARLIER_TEXT = "planted earlier words"
PLANTED = (
    ENV_KEY,
    TYPED_KEY,
    URL_PASSWORD,
    QUERY_KEY,
    HEADER_KEY,
    HELD_KEY,
    CONFIGURED_KEY,
    USER_TEXT,
    EARLIER_TEXT,
)


def found_in(folder: Path, planted: tuple[str, ...] = PLANTED) -> list[tuple[str, str]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [(text, str(path)) for path in files for text in planted if text.encode() in path.read_bytes()]


async def test_nothing_planted_is_found(
    store: VersionStore,
    store_dir: Path,
    name: str,
    fake_openai: FakeOpenAI,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", ENV_KEY)
    settings = Settings.load(["--data-dir", str(store_dir)], {"OPENAI_API_KEY": ENV_KEY})
    base = fake_openai.url.replace("://", f"://user:{URL_PASSWORD}@") + f"?api_key={QUERY_KEY}&api-version=1"
    choice = LMChoice("openai/fake", base, SecretStr(TYPED_KEY), temperature=0.2, cache=False)
    registry = ProgramRegistry(SHIPPED)
    backend = LocalBackend(settings, registry, LMCatalog(settings, Detection(choice, "", ())))
    reachable = LMChoice("openai/fake", fake_openai.url, SecretStr(TYPED_KEY), cache=False)
    request = TurnRequest(
        LocalTarget("chain_of_thought", reachable),
        {"question": USER_TEXT},
        (Message("user", EARLIER_TEXT), Message("assistant", EARLIER_TEXT)),
    )
    assert isinstance([event async for event in backend.stream(request)][-1], TurnFinished)
    await backend.aclose()

    module = registry.module("chain_of_thought")
    held = dspy.LM("openai/held", api_key=HELD_KEY, extra_headers={"Authorization": f"Bearer {HEADER_KEY}"})
    held.history.append({"prompt": USER_TEXT})
    module.predict.lm = held
    module.judges = {"second": [held]}
    module.history.append({"prompt": USER_TEXT})
    module.predict.traces.append((USER_TEXT,))
    configured = dspy.LM("openai/configured", api_key=CONFIGURED_KEY)
    configured.history.append({"prompt": USER_TEXT})
    with dspy.context(lm=configured, own_setting=CONFIGURED_KEY, trace=[USER_TEXT], callbacks=[object()]):
        version = VersionStore(settings).log(LogRequest(name, "chain_of_thought", choice, "text"), registry)

    assert found_in(store_dir) == []
    printed = capfd.readouterr()
    assert not [text for text in PLANTED if text in caplog.text + printed.out + printed.err]
    loaded = store.load(version.uri)
    assert loaded.lm.api_key is None and loaded.lm.temperature == 0.2
    assert loaded.lm.api_base == fake_openai.url + "?api-version=1"
    assert loaded.module.predict.lm.model == "openai/held" and loaded.module.predict.traces == []
    assert loaded.module.judges["second"][0] is loaded.module.predict.lm
    assert held.kwargs["api_key"] == HELD_KEY, "the running program is left as it was"


@pytest.fixture
def own_file(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "own"
    folder.mkdir()
    yield folder / f"keyed_{abs(hash(tmp_path)) % 10**8}.py"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f'KEY = "{TYPED_KEY}"', "the key typed for the model"),
        ('KEY = "sk-proj-' + "a1B2" * 12 + '"', "looks like an API key"),
    ],
)
def test_a_key_in_a_programs_source_is_refused(
    store: VersionStore, store_dir: Path, name: str, own_file: Path, line: str, said: str
) -> None:
    own_file.write_text(
        f"import dspy\n{line}\nclass Keyed(dspy.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.p = dspy.Predict('q -> a')\n"
        "    def forward(self, q: str):\n        return self.p(q=q)\n"
    )
    spec = load_program(str(own_file))
    choice = LMChoice("builtin/rules", api_key=SecretStr(TYPED_KEY))
    with pytest.raises(VersionNotLogged, match=said):
        store.log(LogRequest(name, spec.name, choice), ProgramRegistry([spec]))
    assert not store.tracking.client.search_registered_models(f"name='{name}'")
    assert found_in(store_dir, (TYPED_KEY, "a1B2" * 12)) == []


def test_a_key_in_the_description_is_refused(
    store: VersionStore, programs: ProgramRegistry, name: str
) -> None:
    choice = LMChoice("builtin/rules", api_key=SecretStr(TYPED_KEY))
    with pytest.raises(InvalidInput, match="the key typed"):
        store.log(LogRequest(name, "predict", choice, f"uses {TYPED_KEY}"), programs)


@pytest.mark.parametrize(
    ("url", "public"),
    [
        (None, None),
        ("http://user:pass@host:8000/v1", "http://host:8000/v1"),
        ("https://token@host/v1?key=x&model=y#frag", "https://host/v1?model=y"),
        ("https://host/v1?api_key=1&sig=2&access_token=3&api-version=4", "https://host/v1?api-version=4"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_public_url(url: str | None, public: str | None) -> None:
    assert public_url(url) == public
