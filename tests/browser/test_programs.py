"""A visitor's own program: its inputs as a form, its outputs by their names."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path

from playwright.async_api import expect

from tests.browser.chat_page import ChatPage
from tests.browser.conftest import NewPage
from tests.fake_openai import FakeOpenAI
from tests.processes import REPO, ServerProcess
from tests.serving.test_typed_outputs import OUTPUTS

PROGRAM = """
    from typing import Literal

    import dspy


    class Titles(dspy.Signature):
        '''Write a title.'''

        topic: str = dspy.InputField()
        tone: Literal["calm", "bold"] = dspy.InputField()
        words: int = dspy.InputField()
        title: str = dspy.OutputField()
        remark: str = dspy.OutputField()


    program = dspy.ChainOfThought(Titles)
"""


async def test_further_inputs_are_a_form_and_outputs_have_their_names(
    new_page: NewPage, server_process: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    path = tmp_path / "titles.py"
    path.write_text(textwrap.dedent(PROGRAM))
    server = server_process("--program", f"{path}:program")
    chat = await ChatPage(await new_page()).open(server.url)

    await chat.composer.fill("What is 2 + 2?")
    await chat.composer.press("Enter")
    await expect(chat.notice).to_contain_text(re.compile("words", re.IGNORECASE))
    await expect(chat.composer).to_have_value("What is 2 + 2?")

    await chat.page.locator(".program-form").get_by_label(re.compile("words", re.IGNORECASE)).fill("8")
    await chat.composer.press("Enter")
    await chat.done()
    await expect(chat.page.locator(".turn-inputs")).to_contain_text(re.compile(r"calm.*8"))
    for name in ("Title", "Remark"):
        await expect(chat.answers.get_by_text(name, exact=True)).to_be_visible()


async def test_outputs_of_any_type_are_readable(
    new_page: NewPage, server_process: Callable[..., ServerProcess], fake_openai: FakeOpenAI
) -> None:
    model = ("--lm", "openai/fake", "--api-base", fake_openai.url, "--no-cache")
    server = server_process(*model, "--program", str(REPO / "tests" / "cases" / "typed_outputs.py"))
    fake_openai.reply(fields=OUTPUTS)
    chat = await ChatPage(await new_page()).open(server.url)
    await chat.ask("Describe this.")
    await chat.done()
    for value in ("positive", "2026-11-27", "2026-11-27T15:30:00", "12.75", "0.5", '"since": "1843-07-10"'):
        await expect(chat.answers.filter(has_text=value).first).to_be_visible()
    await expect(chat.answers.filter(has_text=re.compile(r"Mood\."))).to_have_count(0)
