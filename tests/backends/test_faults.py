"""Every way in which a language model's server can fail, over both of DSPy's call paths."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dspy_demo.events import LMChoice
from tests.fake_openai import FAULTS, ODDITIES, Reply, refused_url
from tests.services import LITELLM, NATIVE, house, settings_for, until

pytestmark = pytest.mark.integration  # importing litellm and mlflow takes a while

SILENT, SHORT, SLOW = {"idle_timeout_s": 1.0}, {"reply_max_chars": 50_000}, {"total_timeout_s": 1.0}
ENDLESS_REPLY = Reply(tokens_per_second=20, filler_chars=5_000)
ONE_LINE = Reply(filler_chars=1_000_000, chunk_chars=0)
BEGUN = "The reasoning for"
CUT = "stopped in the middle"
WRONG_SERVER = "not that of a language model"
ENDLESS = "longer than 50,000 characters"


@dataclass(frozen=True)
class Row:
    """What the upstream does, and what the user gets."""

    reply: Reply | None  #: None where no request reaches it; see `bad_url`.
    code: str = ""  #: Of the error; empty where the answer is whole all the same.
    says: str = ""  #: What its sentence holds.
    litellm: tuple[str, str] | None = None  #: Code and words by litellm, where it tells less.
    kept: str = ""  #: What had arrived of the reasoning begins so.
    settings: Mapping[str, Any] = field(default_factory=dict)  #: Of the app, and of the model server.


ROWS = {
    "401": Row(FAULTS["401"], "upstream_auth", "refused the API key"),
    "404": Row(FAULTS["404"], "upstream_rejected", "does not have this model"),
    "429 with Retry-After": Row(FAULTS["429"], "upstream_rate_limited", "wait 7 seconds"),
    "500": Row(FAULTS["500"], "upstream", "server failed"),
    "503": Row(FAULTS["503"], "upstream_unavailable", "overloaded or down"),
    "refused": Row(None, "upstream_unavailable", "cannot be reached"),
    "no TLS there": Row(None, "upstream_unavailable", "cannot be reached"),
    "closed at once": Row(FAULTS["close_before_headers"], "upstream_unavailable", "cannot be reached"),
    "silent": Row(FAULTS["silent_before_headers"], "upstream_timeout", "silent for 1 s", settings=SILENT),
    "stalled": Row(FAULTS["stall"], "upstream_timeout", "silent for 1 second", None, BEGUN, SILENT),
    "too slow in all": Row(ENDLESS_REPLY, "upstream_timeout", "longer than 1 second", None, BEGUN, SLOW),
    "cut": Row(FAULTS["cut"], "upstream_cut", CUT, kept=BEGUN),
    "ended early": Row(FAULTS["clean_cut"], "upstream_cut", CUT, ("malformed_reply", "ignored the"), BEGUN),
    "garbage": Row(FAULTS["garbage"], "upstream", WRONG_SERVER, ("upstream", "server failed")),
    "garbage later": Row(FAULTS["garbage_later"], "upstream_cut", CUT, kept=BEGUN),
    "without the fields": Row(FAULTS["malformed"], "malformed_reply", "ignored the output"),
    "empty": Row(FAULTS["empty"], "empty_reply", "empty reply"),
    "no body": Row(FAULTS["empty_body"], "upstream", WRONG_SERVER, ("empty_reply", "empty reply")),
    "a page": Row(FAULTS["html"], "upstream", WRONG_SERVER, ("empty_reply", "empty reply")),
    "10 MB": Row(ODDITIES["huge"], "reply_too_long", ENDLESS, None, BEGUN, SHORT),
    "1 MB in one line": Row(ONE_LINE, "reply_too_long", "too long", ("reply_too_long", ENDLESS), "", SHORT),
    "one byte at a time": Row(ODDITIES["one_byte_at_a_time"], kept=BEGUN),
    "invalid UTF-8": Row(ODDITIES["invalid_utf8"], litellm=("upstream_cut", CUT), kept="one"),
}  # fmt: skip


@pytest.mark.parametrize("model", [NATIVE, LITELLM])
@pytest.mark.parametrize("name", ROWS)
async def test_a_fault_is_one_clear_sentence_and_leaves_nothing(name, model, fake_openai, data_dir):
    row, fake = ROWS[name], fake_openai
    urls = {"refused": refused_url(), "no TLS there": fake.url.replace("http:", "https:")}
    sockets = open_sockets()
    async with house(settings_for(data_dir, tracing=False, lm_retries=0, **row.settings)) as home:

        async def ask(url):
            return await home.ask("visitor-1", choice=LMChoice(model, url, cache=False))

        await ask(fake.url)  # what is kept for the next turn is there from now on
        tasks = asyncio.all_tasks()
        if row.reply is not None:
            fake.reply(row.reply)
        heard = await ask(urls.get(name, fake.url))
        await until(lambda: fake.active_streams == 0, 2)
        again = await ask(fake.url)
        await until(lambda: asyncio.all_tasks() <= tasks, 2)
    kept_sockets = 2 if model == LITELLM else 0  # both ends of one in litellm's own cache of clients
    await until(lambda: open_sockets() <= sockets + kept_sockets, 2)

    code, says = (model == LITELLM and row.litellm) or (row.code, row.says)
    if code:
        failed = heard.failed
        assert (failed.code, says in failed.public_message) == (code, True), failed
        assert failed.public_message.endswith(".")
        assert "fake upstream detail" not in failed.public_message
        assert failed.retry_after_s == (7 if says == "wait 7 seconds" else None)
    else:
        assert heard.finished.outputs["reasoning"] == heard.text("reasoning")
    assert heard.text("reasoning").startswith(row.kept)
    assert len(heard.text("reasoning")) < 80_000
    assert again.finished.outputs["answer"]


def open_sockets():
    """How many this process has open."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found += str(descriptor.readlink()).startswith("socket:")
    return found
