"""The chat in a real browser, over the real app with the demo engine."""

import json
import re

from playwright.async_api import expect

from dspy_demo.ui.chat.session import FinishedTurn, Session, Sessions
from dspy_demo.ui.chat.turn_view import TurnView
from dspy_demo.web.auth import stored_key
from tests.browser.chat_page import LEFT_MID_STREAM, LONG, ChatPage
from tests.browser.conftest import PHONE, on_a_phone
from tests.visitors import STRANGER


async def test_examples_and_questions_are_answered_and_the_model_reads_what_a_reload_restored(chat):
    example = chat.page.locator("#chat").get_by_role("button", name="What is").first
    text = await example.inner_text()
    await example.click()
    await chat.done()
    await expect(chat.questions).to_contain_text(text.strip())
    await chat.start_over()
    await chat.ask_each("What is 2 + 2?")
    await expect(chat.answers).to_contain_text("2 + 2 = 4")
    await expect(chat.composer).to_have_value("")
    await expect(chat.footers).to_contain_text(re.compile(r"Local.*demo/engine.*in, .*out.*total"))
    await chat.reload()
    await chat.done()
    await chat.ask("What is 3 + 3?")
    await chat.done(2)
    footers = await chat.footers.all_inner_texts()
    first, second = (int(re.search(r"([\d,]+) tokens in", text)[1].replace(",", "")) for text in footers)
    assert second > first + 20


async def test_a_thought_is_open_while_it_streams_and_where_it_was_stopped_and_closed_after(chat, problems):
    problems.allowed.append(LEFT_MID_STREAM)
    wheel, buttons = chat.title.locator(".loading-spinner"), chat.page.locator(".message-buttons-left").last
    for leave in (lambda: chat.page.keyboard.press("Escape"), chat.reload):
        await chat.ask(LONG)
        await expect(chat.title).to_contain_text("Reasoning")
        await expect(wheel).to_be_visible()
        await expect(chat.title).to_have_attribute("aria-expanded", "true")
        await expect(chat.thinking).not_to_be_empty()
        await expect(buttons).to_be_hidden()  # retry and undo are for a turn that has ended
        await leave()
        await chat.done()
        await expect(chat.footers).to_contain_text("Stopped")
        await expect(chat.title).to_have_attribute("aria-expanded", "true")
        await expect(wheel).to_be_hidden()
        await expect(chat.thinking).to_have_text(re.compile("1"))
        await chat.undo.click()
        await expect(chat.questions).to_have_count(0)
        await expect(chat.composer).to_have_value(LONG)
    await chat.ask_each("What is 2 + 2?")
    await expect(buttons).to_be_visible()
    await expect(chat.title).to_have_attribute("aria-expanded", "false")
    await expect(chat.title).to_contain_text(re.compile(r"Thought for \d+\.\d+\ss"))


async def test_tool_calls_are_lines_under_the_thought_and_retry_asks_what_is_picked_now(chat):
    await chat.pick("program", "ReAct")
    await chat.ask_each("What is 12 * (3 + 4)?")
    await chat.title.click()
    tool = re.compile(r"calculator\(.*\) → 84")
    await expect(chat.thoughts.first.locator(".children")).to_contain_text(tool)
    await chat.pick("program", "Plain predict")
    await chat.page.get_by_role("button", name="Retry").click()
    await expect(chat.thoughts).to_have_count(0)
    await chat.done()
    await expect(chat.questions).to_have_count(1)


@on_a_phone
async def test_on_a_phone_the_sidebar_starts_closed_and_opens(chat):
    await expect(chat.model).not_to_be_in_viewport()
    await expect(chat.composer).not_to_be_focused()  # a keyboard would lie over half of the page
    await chat.show_sidebar()
    await expect(chat.sidebar.get_by_role("link", name="Source of").first).to_be_visible()
    for role in ("link", "button"):
        for target in await chat.sidebar.get_by_role(role).all():
            box = await target.bounding_box()
            assert box is None or box["height"] >= 32, f"too small to tap: {await target.inner_text()}"
    await chat.page.mouse.click(PHONE["width"] - 10, PHONE["height"] // 2)
    await expect(chat.model).not_to_be_in_viewport()
    assert await chat.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], (
        "scrolls sideways"
    )
    # A button that speaks of a section opens the sidebar there.
    await chat.page.get_by_role("button", name="Connect a model").click()
    await expect(chat.model).to_be_in_viewport()
    await chat.sidebar.get_by_role("button", name="Serve a version").click()
    await expect(chat.sidebar.get_by_text("No version yet")).to_be_in_viewport()


async def test_all_by_keyboard(chat):
    side, main = await chat.sidebar.bounding_box(), await chat.page.locator("#main").bounding_box()
    assert side["x"] + side["width"] <= main["x"], "the sidebar stands beside the chat"
    keyboard = chat.page.keyboard
    await expect(chat.composer).to_be_focused()
    await keyboard.type("What is 2 + 2?")
    await keyboard.press("Tab")
    await expect(chat.send_button).to_be_focused()
    await keyboard.press("Enter")
    await chat.done()
    await chat.title.focus()
    for key, expanded in (("Space", "true"), ("Enter", "false")):
        await keyboard.press(key)
        await expect(chat.title).to_have_attribute("aria-expanded", expanded)
    await keyboard.press("Tab")
    await expect(chat.page.get_by_role("button", name="Copy message").last).to_be_focused()
    await chat.page.locator("#program input").focus()
    await keyboard.press("ArrowDown")
    await keyboard.press("Enter")
    await expect(chat.active).to_contain_text("Plain predict")


async def test_earlier_messages_are_shown_on_demand(new_page, app):
    chat = ChatPage(await new_page())
    turns = [TurnView(f"Question {number}", turn_id=f"t{number}").stopped(1.0) for number in range(21)]
    sessions = Sessions(stored_key(app.log_path.parent / "data"))
    told = sessions.saved(Session(STRANGER, turns=tuple(map(FinishedTurn, turns))))
    kept = {"dspy-demo-chats": ["kept"], "dspy-demo-chat-kept": json.loads(told)}
    write = "([key, value]) => localStorage.setItem(key, JSON.stringify(value))"
    await chat.page.add_init_script(f"Object.entries({json.dumps(kept)}).forEach({write})")
    await chat.open(app.url)
    await expect(chat.questions).to_have_count(10)
    await chat.page.get_by_role("button", name="Show earlier messages").click()
    await expect(chat.questions).to_have_count(20)
