"""No secret and nobody's words in what is logged: every byte of the store is searched, and what is said."""

import os

import dspy
import pytest
from pydantic import SecretStr

from dspy_demo.errors import InvalidInput, VersionNotLogged
from dspy_demo.events import LMChoice
from dspy_demo.settings import Settings
from dspy_demo.versions import LogRequest, VersionStore
from tests.services import house

BUILTIN = LMChoice("demo/engine")
#: What is planted; it looks like nothing in particular.
PLANTED, ANOTHER = "planted-Value-1f9", "planted-Other-2a7"
USER_TEXT = "planted user words about a private matter"


def found_in(store, *planted):
    files = [path for path in store.tracking.data_dir.rglob("*") if path.is_file()]
    assert files
    return [(text, str(path)) for path in files for text in planted if text.encode() in path.read_bytes()]


async def test_what_turns_and_models_hold_stays_out(store, programs, name, fake_openai, caplog, capfd):
    """Keys, headers, account and words: in the program's models, in DSPy's settings, in an earlier turn."""
    keys = [f"planted-key-{number}" for number in range(9)]
    settings = Settings.load(["--data-dir", str(store.tracking.data_dir)], {"OPENAI_API_KEY": keys[0]})
    base = fake_openai.url.replace("://", f"://user:{keys[1]}@") + f"?api_key={keys[2]}&api-version=1"
    choice = LMChoice("openai/fake", base, SecretStr(keys[3]), temperature=0.2, cache=False)
    reachable = LMChoice("openai/fake", fake_openai.url, SecretStr(keys[3]), cache=False)
    async with house(settings, reachable, programs=programs) as home:
        assert (await home.ask(USER_TEXT, program="chain_of_thought")).finished

    module = programs.module("chain_of_thought")
    sent = {
        "extra_headers": {"Authorization": f"Bearer {keys[6]}"},
        "extra_body": {"api_key": keys[7], "tenant": ANOTHER, "top_k": 5},
    }
    gateway = f"https://u:{keys[5]}@gateway.test/v1"
    held = dspy.LM(
        "openai/held", api_key=keys[4], api_base=gateway, organization=ANOTHER, user=ANOTHER, **sent
    )
    held.history.append({"prompt": USER_TEXT})
    module.predict.lm = held
    module.judges = {"second": [held]}
    module.history.append({"prompt": USER_TEXT})
    module.predict.traces.append((USER_TEXT,))
    configured = dspy.LM("openai/configured", api_key=keys[8])
    with dspy.context(lm=configured, own_setting=keys[8], trace=[USER_TEXT], callbacks=[object()]):
        version = VersionStore(settings).log(LogRequest(name, "chain_of_thought", choice, "text"), programs)

    planted = (*keys, ANOTHER, USER_TEXT)
    assert found_in(store, *planted) == []
    printed = capfd.readouterr()
    assert not [text for text in planted if text in caplog.text + printed.out + printed.err]
    noted = version.notes["lm"]
    assert (noted["temperature"], noted["api_base"]) == (0.2, fake_openai.url + "?api-version=1")
    loaded = store.load(version.uri).build()
    lm = loaded.predict.lm
    assert lm.model == "openai/held" and lm.kwargs["extra_body"] == {"top_k": 5}
    assert loaded.judges["second"][0] is lm
    assert held.kwargs["api_key"] == keys[4], "the running program is left as it was"


#: What the program keeps, or what its source says, and what is said of it.
REFUSED = {
    f'self.conf = {{"api_key": "{PLANTED}"}}': "“api_key”",
    f'self.url = "https://me:{PLANTED}@db.test/x"': "address with a password",
    f'self.client_token = "{PLANTED}"': "“client_token”",
    f'self.headers = [("X-Api-Key", "{PLANTED}")]': "“X-Api-Key”",
    "self.anything = os.environ['MYCORP_TOKEN']": "the value of MYCORP_TOKEN",
    f"self.lm = dspy.LM('openai/m', extra_body={{'tenant': '{PLANTED}'}})": "“tenant”",
    f"self.lm = dspy.LM('openai/m', api_base='http://me:{PLANTED}@gw.test/v1')": "of a language model",
    f"JUDGE = dspy.LM('openai/m', api_key='{PLANTED}')": "“api_key”, in code/mine_",
    f"DB_PASSWORD = '{PLANTED}'": "“DB_PASSWORD”, in code/mine_",
    f"os.environ['SOME_TOKEN'] = '{PLANTED}'": "SOME_TOKEN, in code",
    f"URL = 'https://gw.test/v1?access_token={PLANTED}'": "“access_token”",
    f"# {PLANTED}": "the value of MYCORP_TOKEN, in code/mine_",
    "KEY = 'sk-proj-" + "a1B2" * 12 + "'": "looks like an API key",
    "DATA = Path(__file__).with_name('service.json').read_text()": "“private_key”, in code/service.json",
}


def test_a_secret_of_a_program_is_refused_by_its_place(store, name, program, tmp_path, monkeypatch):
    (tmp_path / "service.json").write_text(f'{{"private_key": "{PLANTED}"}}')
    for line, said in REFUSED.items():
        monkeypatch.setenv("MYCORP_TOKEN", PLANTED if "MYCORP" in said else "something else in it")
        monkeypatch.setenv("SOME_TOKEN", "")  # which a program sets
        programs = program(line)
        with pytest.raises(VersionNotLogged) as caught:
            store.log(LogRequest(name, programs.default.name, BUILTIN), programs)
        message = caught.value.public_message
        assert said in message and PLANTED not in message, (line, message)
        assert found_in(store, PLANTED) == []
    assert not store.tracking.client.search_registered_models(f"name='{name}'")


def test_no_secret_in_what_is_said_of_a_version(store, programs):
    """Each of the owner's, the guests' and the environment's; also where it is edited later."""
    values = [f"{PLANTED}-{number}" for number in range(7)]
    names = ("owner_token", "guest_token", "guest_password", "api_key")
    address = f"http://me:{values[4]}@host.test/?api_key={values[5]}"
    held = dict(zip(names, values, strict=False)) | {"served_url": address}
    settings = Settings(data_dir=store.tracking.data_dir, **held)
    store = VersionStore(settings, {"AZURE_API_KEY": values[6], "OUR_PASSWORD": ANOTHER})
    for value in (*values, ANOTHER, f"api_key='{PLANTED}'"):
        for request in (
            LogRequest(f"a {value}", "predict", BUILTIN),
            LogRequest("noted", "predict", BUILTIN, f"with {value}!"),
            LogRequest("noted", "predict", BUILTIN, tags={"a": value}),
        ):
            with pytest.raises(InvalidInput, match="hold") as caught:
                store.log(request, programs)
            assert value not in caught.value.public_message
        with pytest.raises(InvalidInput, match="hold"):
            store.edit("models:/noted/1", "", {value: "b"})


@pytest.mark.usefixtures("ready_files")
def test_variables_that_are_no_secrets_stop_nothing(store, name, program, tmp_path):
    used = {
        "TOKENIZERS_PARALLELISM": "false",
        "MAX_TOKENS": "100000000000",
        "KEY_FILE": str(tmp_path),
        "TOKEN_URL": "https://login.example.org/token",
        "SECRET_BACKEND": "secret_backend",
        "TOKENIZER_MODEL": "openai/some-model-name",
    }
    programs = program(f"USED = {list(used.values())}; token = 'question'; api_key = 'MYCORP_API_KEY'")
    store = VersionStore(Settings(data_dir=store.tracking.data_dir), os.environ | used)
    choice = LMChoice("openai/some-model-name", api_key=SecretStr("none"))
    assert store.log(LogRequest(name, programs.default.name, choice, "false"), programs).version == 1
