"""A visitor's own program: its inputs as a form, its outputs of any type by their names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from playwright.async_api import expect

from tests.browser.chat_page import ChatPage
from tests.browser.conftest import NewPage
from tests.fake_openai import FakeOpenAI
from tests.processes import REPO, ServerProcess
from tests.serving.test_typed_outputs import OUTPUTS

#: The typed outputs, with further inputs and two plain outputs.
PROGRAM = """
from typing import Literal

class Titles(Describe):
    topic: str = dspy.InputField()
    tone: Literal["calm", "bold"] = dspy.InputField()
    words: int = dspy.InputField()
    title: str = dspy.OutputField()

program = dspy.Predict(Titles)
"""


async def test_further_inputs_are_a_form_and_outputs_have_their_names(
    new_page: NewPage,
    server_process: Callable[..., ServerProcess],
    fake_openai: FakeOpenAI,
    tmp_path: Path,
) -> None:
    program = tmp_path / "titles.py"
    program.write_text((REPO / "tests" / "cases" / "typed_outputs.py").read_text() + PROGRAM)
    model = ("--lm", "openai/fake", "--api-base", fake_openai.url, "--no-cache")
    server = server_process(*model, "--program", f"{program}:program")
    fake_openai.reply(fields=OUTPUTS | {"title": "Four, calmly"})
    chat = await ChatPage(await new_page()).open(server.url)

    await chat.composer.fill("What is 2 + 2?")
    await chat.composer.press("Enter")
    await expect(chat.notice).to_contain_text(re.compile("topic|words", re.IGNORECASE))
    await expect(chat.composer).to_have_value("What is 2 + 2?")

    form = chat.page.locator(".program-form")
    await form.get_by_label("Topic").fill("Sums")
    await form.get_by_label("Words").fill("8")
    await chat.composer.press("Enter")
    await chat.done()
    await expect(chat.page.locator(".turn-inputs")).to_contain_text(re.compile(r"calm.*8"))
    for value in ("positive", "2026-11-27", "2026-11-27T15:30:00", "12.75", "0.5", '"since": "1843-07-10"'):
        await expect(chat.answers.filter(has_text=value).first).to_be_visible()
    await expect(chat.answers.filter(has_text=re.compile(r"Mood\."))).to_have_count(0)
    for name in ("Title", "Sentiment"):
        await expect(chat.answers.get_by_text(name, exact=True)).to_be_visible()
