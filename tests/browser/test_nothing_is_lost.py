"""What must not be lost: a question that was refused or sent, a draft, a chat, the turns of another tab."""

import asyncio
import re
from contextlib import suppress

from playwright.async_api import expect

from tests.browser.chat_page import DRAWN, LEFT_MID_STREAM, LONG, TURN_MS, ChatPage
from tests.browser.conftest import on_a_phone
from tests.fake_openai import free_port
from tests.processes import start_process

#: What a browser reports of a connection that a test has cut.
CUT = r"net::ERR_|Failed to fetch|Connection errored out|network error|Unexpected client exception|TypeError"


class CutLine:
    """A line between a browser and the app's port: cut, its connections break, and new ones are refused."""

    def __init__(self, port):
        self._port, self._own_port, self._writers = port, 0, set()

    async def mend(self):
        """Take connections, at the same address as before."""
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self._own_port)
        self._own_port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._own_port}"

    async def cut(self):
        """Break every connection and take no more."""
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _connect(self, reader, writer):
        app_reader, app_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, app_writer}
        await asyncio.gather(_pass(reader, app_writer), _pass(app_reader, writer))


async def _pass(reader, writer):
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def is_given_back(chat, question, said):
    """A question is refused with a sentence that can be seen, and stays where it was typed."""
    await chat.composer.fill(question)
    await chat.is_refused(said, lambda: chat.composer.press("Enter"))
    await expect(chat.composer).to_have_value(question)
    await expect(chat.notice).to_be_in_viewport()


@on_a_phone
async def test_a_refusal_stays_until_the_next_edit_and_a_question_sent_while_scrolled_up_is_shown(chat):
    await is_given_back(chat, "x" * 25_000, "25,000 characters")
    await is_given_back(chat, "   ", "Write a question first.")
    await chat.set_temperature("9")
    await is_given_back(chat, "What is 2 + 2?", "Temperature must be a number")
    await chat.set_temperature("")
    await expect(chat.notice).to_have_text("")
    await chat.composer.press("Enter")
    await chat.done()
    await chat.set_temperature("9")
    retry = chat.page.get_by_role("button", name="Retry")
    await chat.is_refused("Temperature must be a number", retry.click)
    await expect(chat.answers).to_contain_text("2 + 2 = 4")
    await chat.set_temperature("")
    await chat.ask(LONG)
    await expect(chat.stop_button).to_be_visible()
    await is_given_back(chat, "next question", "Stop first")
    await chat.stop_button.click()
    await chat.done(2)
    await expect(chat.composer).to_have_value("next question")
    await expect(chat.questions).to_have_count(2)

    for number in (3, 4, 5):
        await chat.ask(f"What is {number} + {number}?")
        await chat.done(number)
    await chat.page.locator("#chat").hover()
    await chat.page.mouse.wheel(0, -20_000)
    await expect(chat.questions.first).to_be_in_viewport()
    await chat.ask("Tell me about Peru")
    await expect(chat.questions.last).to_be_in_viewport()
    await chat.done(6)
    await expect(chat.footers.last).to_be_in_viewport()


async def test_a_broken_line_loses_no_question_and_nothing_that_had_come(new_page, app, problems):
    problems.allowed.append(CUT)
    chat, line = ChatPage(await new_page()), CutLine(app.port)
    lost = chat.page.get_by_text("Connection to the server was lost")
    await line.mend()
    await chat.open(line.url)
    await chat.ask_each("What is 2 + 2?")
    await line.cut()
    await chat.send(LONG)
    await expect(lost).to_be_visible()
    await line.mend()
    await expect(chat.notice).to_contain_text("The connection was lost", timeout=TURN_MS)
    await expect(chat.composer).to_have_value(LONG)
    await expect(chat.answers).to_contain_text("2 + 2 = 4")

    await chat.composer.press("Enter")
    await expect(chat.thinking).not_to_be_empty()
    await line.cut()
    await expect(lost).to_be_visible()
    await line.mend()
    await expect(chat.notice).to_contain_text("The connection was lost", timeout=TURN_MS)
    await chat.done(2)
    await expect(chat.questions).to_have_count(2)
    await expect(chat.footers.last).to_contain_text("Stopped")
    await line.cut()


async def test_chat_and_draft_outlive_a_restart_of_the_app(new_page, data_dir, home, problems):
    problems.allowed.append(CUT)
    chat, port = ChatPage(await new_page()), free_port()
    command = ["app.py", "--port", str(port), "--no-open", "--data-dir", str(data_dir)]
    server = start_process(command, port=port, home=home)
    try:
        server.wait_until_healthy()
        await chat.open(server.url)
        await chat.ask_each("What is 2 + 2?")
        server.stop()
        await chat.send("What is 3 + 3?")
        server = start_process(command, port=port, home=home)
        await expect(chat.notice).to_contain_text("The connection was lost", timeout=2 * TURN_MS)
        await expect(chat.composer).to_have_value("What is 3 + 3?")
        await chat.composer.press("Enter")
        await chat.done(2)
    finally:
        server.stop()


async def test_two_tabs_are_two_conversations(new_page, app):
    page = await new_page()
    first = await ChatPage(page).open(app.url)
    await first.ask_each("What is 1 + 1?", "What is 2 + 2?")
    second = await ChatPage(await page.context.new_page()).open(app.url)
    await second.done(2)
    await second.open_editor()
    await second.editor.fill("What is 10 + 10?")
    await second.page.get_by_role("button", name="Submit").click()
    await expect(second.answers).to_contain_text(["10 + 10 = 20"], timeout=TURN_MS)
    await second.done()
    await first.undo.click()
    await expect(first.questions).to_have_text([re.compile(r"1 \+ 1")])
    for tab, question in ((first, r"1 \+ 1"), (second, r"10 \+ 10")):
        await tab.reload()
        await expect(tab.questions).to_have_text([re.compile(question)])
    await first.ask(LONG)
    await second.start_over()
    await expect(first.stop_button).to_be_visible()
    await first.stop_button.click()
    await first.done(2)


async def test_new_chat_and_undo_can_be_undone_and_keep_the_draft_and_a_rating_box_goes_with_its_turn(chat):
    await chat.ask_each("What is 2 + 2?")
    for take_away in (chat.undo, chat.new_chat):
        await chat.composer.fill("my unsent draft")
        await take_away.click()
        await expect(chat.questions).to_have_count(0)
        await expect(chat.composer).to_have_value("my unsent draft")
        await chat.notice.get_by_role("button", name="Undo").click()
        await expect(chat.answers).to_contain_text("2 + 2 = 4")
        await expect(chat.composer).to_have_value("my unsent draft")
    await chat.reload()
    await expect(chat.answers).to_contain_text("2 + 2 = 4")
    await chat.page.get_by_role("button", name="Dislike", exact=True).click()
    await expect(chat.rating).to_have_attribute("placeholder", re.compile("What went wrong"))
    await chat.ask("What is 3 + 3?")
    await expect(chat.rating).to_be_hidden()
    await chat.done(2)
    await chat.page.get_by_role("button", name="Like", exact=True).last.click()
    await expect(chat.rating).to_have_attribute("placeholder", re.compile("What was good"))
    await chat.start_over()
    await expect(chat.rating).to_be_hidden()


@on_a_phone
async def test_new_chat_stops_a_running_turn_and_can_bring_back_what_had_come(chat):
    """Also where an answer of the server comes late: that of the turn's end, after that of Undo."""
    await chat.ask(LONG)
    await expect(chat.thinking).not_to_be_empty()
    undone = asyncio.Event()
    settle = await chat.page.evaluate("gradio_config.dependencies.find((e) => e.api_name === 'redraw').id")

    def settles(request):
        return "/run/" in request.url and request.post_data_json["fn_index"] == settle

    async def late(route):
        reply = await route.fetch()
        if settles(route.request):
            await undone.wait()
        await route.fulfill(response=reply)

    await chat.page.route("**/run/predict*", late)
    await chat.start_over()
    await expect(chat.send_button).to_be_visible()
    await chat.notice.get_by_role("button", name="Undo").click()
    await chat.done()
    async with chat.page.expect_response(lambda reply: settles(reply.request)):
        undone.set()
    await chat.page.evaluate(DRAWN)
    await chat.done()
    await expect(chat.footers).to_contain_text("Stopped")


async def test_an_open_edit_ends_with_new_chat_or_escape_and_enter_sends_it(chat):
    await chat.ask_each("What is 2 + 2?")
    for key, kept in (("Escape", "2 + 2"), ("Enter", "5 + 5 = 10")):
        await chat.open_editor()
        await chat.editor.fill("What is 5 + 5?")
        await chat.editor.press(key)
        await expect(chat.editor).to_have_count(0)
        await expect(chat.answers).to_contain_text(kept, timeout=TURN_MS)
    await chat.done()
    await chat.open_editor()
    await chat.start_over()
    await expect(chat.editor).to_have_count(0)
    await expect(chat.composer).to_be_focused()
    await chat.ask_each("What is 3 + 3?")
    for draft, recalled in (("", "What is 3 + 3?"), ("a draft", "a draft")):
        await chat.composer.fill(draft)
        await chat.composer.press("ArrowUp")
        await expect(chat.composer).to_have_value(recalled)


@on_a_phone
async def test_a_reload_keeps_what_was_picked_and_no_key(chat, problems):
    problems.allowed.append(LEFT_MID_STREAM)
    url, key = chat.page.get_by_label("Base URL"), chat.page.get_by_label("API key")
    await chat.show_sidebar()
    await chat.pick("program", "Plain predict")
    await chat.pick("model", "Other…")
    await chat.typed_model.fill("openai/x")
    await url.fill("http://127.0.0.1:9/v1")
    await key.fill("sk-not-to-be-kept-1234")
    await chat.set_temperature("9")
    await chat.composer.fill("my unsent draft")
    await expect(chat.active).to_contain_text("openai/x")
    await chat.reload()
    await expect(chat.active).to_contain_text("Plain predict")
    await expect(chat.active).to_contain_text("openai/x")
    await expect(chat.composer).to_have_value("my unsent draft")
    await expect(url).to_have_value("http://127.0.0.1:9/v1")
    await expect(key).to_have_value("")
    await chat.is_refused("Temperature must be a number", lambda: chat.composer.press("Enter"))
    await chat.show_settings()
    await expect(chat.temperature).to_have_value("9")
    stored = await chat.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert "sk-not-to-be-kept" not in stored
