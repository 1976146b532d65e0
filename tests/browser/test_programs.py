"""A visitor's own program: its inputs as a form, its outputs by their names."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path

from playwright.async_api import expect

from tests.browser.chat_page import ChatPage
from tests.browser.conftest import NewPage
from tests.processes import ServerProcess

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
    server = server_process("--offline-tokens-per-s", "0", "--program", f"{path}:program")
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
