"""Model files: found where they lie, of other programs too; downloaded whole or not at all."""

import hashlib

import filelock
import pytest

from dspy_demo.errors import Busy, DownloadFailed, ModelSetupError
from dspy_demo.lm.local import download as module
from dspy_demo.lm.local import files, runtime
from dspy_demo.lm.local.command import models_command
from dspy_demo.lm.local.download import Downloads, download
from dspy_demo.lm.local.files import find, offered, trained_context
from tests.fake_hub import FakeHub, gguf_bytes, known_for
from tests.fake_openai import refused_url
from tests.services import settings_for, until
from tests.tiny_gguf import write_tiny_gguf

CONTENT = gguf_bytes()
MODEL, OTHER = known_for(CONTENT), known_for(gguf_bytes(200_001), "other-instruct")


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(module, "SILENCE_S", 0.3)
    with FakeHub(CONTENT) as fake:
        yield fake


@pytest.fixture
def settings(data_dir, hub, home, monkeypatch):
    monkeypatch.setattr(files, "KNOWN", (MODEL, OTHER))
    (home / "models").mkdir()
    return settings_for(data_dir, models_dir=home / "models", hub_url=hub.url)


def put(path, content=CONTENT):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def hub_cached(home, content, file):
    """A file as Hugging Face's own tools store it: a link to a blob that is named by its checksum."""
    repo = home / ".cache/huggingface/hub/models--Tiny--Tiny-Instruct-GGUF"
    link = repo / "snapshots" / MODEL.revision / file
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(put(repo / "blobs" / hashlib.sha256(content).hexdigest(), content))


def test_a_file_is_found_by_its_name_where_it_is_whole_or_by_its_path(settings, home):
    path = put(settings.models_dir / "tiny-instruct.gguf")
    model = find("local/tiny-instruct", settings)
    assert (model.path, model.title, model.sha256) == (path, "Tiny Instruct", MODEL.sha256)
    put(path, CONTENT[:-1])  # it lost its end
    with pytest.raises(ModelSetupError, match="models pull tiny-instruct"):
        find("local/tiny-instruct", settings)
    mine = write_tiny_gguf(home / "Some.Model.GGUF", context=777)
    model = find("local/~/Some.Model.GGUF", settings)
    assert (model.path, model.sha256, model.title) == (mine, "", "Some.Model")
    assert trained_context(mine) == 777


def test_what_is_not_here_is_an_error_with_what_to_do(settings):
    with pytest.raises(ModelSetupError, match=r"local/PATH.gguf, or one of local/tiny-instruct"):
        find("local/no-such-name", settings)
    text, folder = put(settings.models_dir / "a.gguf", b"<!doctype html>" * 9), settings.models_dir / "b.gguf"
    folder.mkdir()
    for path in (text, folder, "/nowhere/x.gguf"):
        with pytest.raises(ModelSetupError, match="is no GGUF file"):
            find(f"local/{path}", settings)
    assert offered(settings) == []


def test_files_of_other_programs_are_offered_each_once(settings, home):
    put(settings.models_dir / "tiny-instruct.gguf")
    hub_cached(home, CONTENT, MODEL.file)  # the same file again
    hub_cached(home, gguf_bytes(2_001), "other.gguf")
    here = [f"models/{name}.gguf" for name in ("mine", "embedding", "big-00002-of-00003")]
    for name in (".lmstudio/models/someone/Repo-GGUF/a.gguf", ".cache/llama.cpp/b.gguf", *here):
        put(home / name)
    (settings.models_dir / "gone.gguf").symlink_to(home / "nothing")
    found = {model.title: where for model, where in offered(settings)}
    programs = {"other": "Hugging Face", "a": "LM Studio", "b": "llama.cpp"}
    assert found == {"Tiny Instruct": "local", "mine": "your folder"} | programs
    assert all(find(model.model, settings).path == model.path for model, _ in offered(settings))


@pytest.mark.parametrize("ignores_range", [False, True])
@pytest.mark.parametrize("left", [0, 70_000, len(CONTENT)])
async def test_a_model_comes_over_the_redirect_from_where_the_last_try_stopped(
    settings, hub, left, ignores_range
):
    part = put(settings.models_dir / "tiny-instruct.gguf.part", CONTENT[:left])
    hub.ignores_range, amounts = ignores_range, []
    model = await download(MODEL, settings, amounts.append)
    assert model.path.read_bytes() == CONTENT and not part.exists()
    assert amounts == sorted(amounts) and amounts[-1:] in ([], [len(CONTENT)])
    assert await download(MODEL, settings) == model == find(model.model, settings)
    assert hub.ranges == ([f"bytes={left}-"] if left < len(CONTENT) else [])
    assert hub.paths[:1] in ([], [f"/{MODEL.repo}/resolve/{MODEL.revision}/{MODEL.file}"])


async def test_each_fault_is_one_sentence_and_keeps_what_is_right(settings, hub):
    async def failure(**changes):
        with pytest.raises(DownloadFailed) as caught:
            await download(MODEL, settings.model_copy(update=changes))
        assert files.present(MODEL, settings.models_dir) is None
        assert "signature" not in caught.value.public_message
        return caught.value.public_message

    part = put(settings.models_dir / "tiny-instruct.gguf.part", CONTENT[:70_000])
    hub.stalls_at, hub.status = 80_000, 503
    assert "does not give tiny-instruct.gguf as expected (HTTP 503)" in await failure()
    hub.status = None
    assert "failed. What has arrived is kept" in await failure()
    assert part.read_bytes() == CONTENT[: part.stat().st_size] and part.stat().st_size >= 70_000
    hub.stalls_at, hub.content = None, CONTENT[:-1] + b"?"
    assert "another checksum" in await failure()
    assert not part.exists()
    hub.content = b"<!doctype html>" * 20_000  # a network that asks for a sign-in
    assert "as expected" in await failure()
    with filelock.FileLock(part.with_suffix(".lock"), thread_local=False), pytest.raises(Busy):
        await download(MODEL, settings)
    assert "--hub-url" in await failure(hub_url=refused_url().removesuffix("/v1"))
    part.unlink(missing_ok=True)
    hub.content = CONTENT
    part.symlink_to("/dev/full")
    assert "is full or cannot be written" in await failure()


async def test_one_model_comes_at_a_time_and_a_fault_is_kept(settings, hub):
    """`tests/browser/test_sections.py` shows the progress, the cancelling and the going on."""
    downloads, hub.status = Downloads(settings), 503
    downloads.start(MODEL.name)
    with pytest.raises(Busy, match="A model is"):
        downloads.start(OTHER.name)
    await until(lambda: not downloads.busy)
    states = downloads.states()
    assert [row.phase for row in states] == ["absent", "absent"] and "HTTP 503" in states[0].reason


def test_pull_list_rm_but_nothing_outside_the_folder(settings, hub, home, capsys, monkeypatch):
    folder, outside = settings.models_dir, put(home / "mine.gguf")

    def run(*words):
        return models_command([*words, "--models-dir", str(folder)], {"HF_ENDPOINT": hub.url})

    monkeypatch.setattr(runtime, "MODULE", "no_such_module")
    assert run("pull") == 0
    pulled = capsys.readouterr()
    assert "--lm local/tiny-instruct" in pulled.err and runtime.INSTALL_LINE in pulled.err
    put(folder / "mine.gguf")
    assert run("list") == 0
    rows = [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines()]
    assert [(row[0], row[3]) for row in rows] == [
        ("local/tiny-instruct", "local"),
        ("local/other-instruct", "not downloaded"),
        (f"local/{folder / 'mine.gguf'}", "your folder"),
    ]
    assert [run("rm", name) for name in ("tiny-instruct", "tiny-instruct", "../mine")] == [0, 2, 2]
    assert outside.exists() and run("pull", "nothing") == 2
    assert "Choose tiny-instruct or other-instruct" in capsys.readouterr().err
