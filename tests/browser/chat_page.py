"""The chat page as a visitor sees it: words for what tests do there."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from playwright.async_api import Locator, Page, expect

#: For what a model has to say first; everything else is quicker than Playwright's own five seconds.
TURN_MS = 30_000
#: For a model server to start: 2 to 4 s on a quiet machine.
START_MS = 60_000
#: What Gradio itself reports when a page is left in the middle of a stream; the last is an update that comes
#: to a stream which it has given up already (6.31, `apply_diff_stream`).
LEFT_MID_STREAM = r"AbortError|Connection errored out|network error|Unexpected client exception TypeError"

#: Resolves when the page has been drawn often enough for what has arrived to be seen.
DRAWN = """new Promise((resolve) => {
  const wait = (frames) => (frames ? requestAnimationFrame(() => wait(frames - 1)) : resolve());
  wait(20);
})"""


class ChatPage:
    """Wraps a Playwright page; `ask` and the like do, properties find."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.composer = page.locator("#composer textarea")
        self.send_button = page.get_by_role("button", name="Send", exact=True)
        self.stop_button = page.locator("#composer").get_by_role("button", name="Stop")
        self.questions = page.locator("#chat .user-row")
        self.answers = page.locator("#chat .bot-row")
        self.footers = page.locator("#chat .turn-footer")
        self.thoughts = page.locator("#chat .thought-group")
        self.notice = page.locator("#notice")
        self.new_chat = page.get_by_role("button", name="New chat")
        self.editor = page.locator("#chat .edit-textarea")
        self.active = page.locator("#active")
        self.typed_model = page.get_by_placeholder("openai/gpt-4o-mini")
        self.temperature = page.get_by_label("Temperature")
        self.rating = page.get_by_label("Comment on the answer")
        self.sidebar = page.locator("#sidebar")
        self.toggle = page.get_by_role("button", name="Toggle Sidebar")

    async def open(self, url: str) -> ChatPage:
        await self.page.goto(url)
        await self.loaded()
        return self

    async def reload(self) -> None:
        await self.page.reload()
        await self.loaded()

    async def loaded(self) -> None:
        """The page is drawn, and the visitor's own chat has been fetched."""
        await expect(self.composer).to_be_visible(timeout=TURN_MS)
        await self.page.wait_for_function("sessionStorage.getItem('dspy-demo-chat') !== null")

    async def ask(self, question: str) -> None:
        count = await self.questions.count()
        await self.composer.fill(question)
        await self.composer.press("Enter")
        await expect(self.questions).to_have_count(count + 1)

    async def start_over(self) -> None:
        await self.show_sidebar()
        await self.new_chat.click()

    async def done(self, turns: int = 1) -> None:
        """The turns have ended, and the composer is free again."""
        await expect(self.footers).to_have_count(turns, timeout=TURN_MS)
        await expect(self.send_button).to_be_visible()

    async def pick(self, picker: str, option: str) -> None:
        await self.page.locator(f"#{picker} input").click()
        await self.page.get_by_role("option", name=option).click()

    def picker(self, name: str) -> Locator:
        return self.page.locator(f"#{name} input")

    async def connect(self, url: str) -> None:
        await self.page.get_by_role("button", name="Connect to a server").click()
        await self.page.get_by_placeholder("http://127.0.0.1:5001").fill(url)
        await self.page.get_by_role("button", name="Connect", exact=True).click()
        await expect(self.page.locator("#server")).to_contain_text("Connected")
        await self.switch("Served")

    async def switch(self, backend: str) -> None:
        await self.page.locator("#backend").get_by_text(backend, exact=True).click()

    def image_field(self, name: str) -> Locator:
        return self.page.locator(".image-input").filter(has_text=name).first.get_by_role("textbox")

    async def share(self) -> Locator:
        await self.page.get_by_role("button", name="Share", exact=True).click()
        return self.page.locator("#share")

    async def choose_file(self, field: str, name: str, content: bytes) -> None:
        """Give the program's form a file for one of its images."""
        box = self.page.locator(".image-input").filter(has_text=field).first
        async with self.page.expect_file_chooser() as chooser:
            await box.get_by_role("button", name="Choose a file").click()
        await (await chooser.value).set_files([{"name": name, "mimeType": "image/png", "buffer": content}])
        await expect(box.get_by_role("textbox")).to_have_value(re.compile("^data:image/jpeg"))

    async def copied(self) -> str:
        """What the copy button of the last answer gives; the page needs the clipboard's permissions."""
        await self.page.get_by_role("button", name="Copy message").last.click()
        return str(await self.page.evaluate("navigator.clipboard.readText()"))

    async def width(self) -> int:
        """How wide the page is, with what of it is out of sight at the right."""
        return int(await self.page.evaluate("document.documentElement.scrollWidth"))

    def title(self, index: int = 0) -> Locator:
        return self.thoughts.nth(index).locator("> .title")

    async def is_refused(self, text: str, act: Callable[[], Awaitable[None]]) -> None:
        """What `act` asks is refused, and the notice is still there after all that it causes was drawn."""
        async with self.page.expect_response(lambda reply: "/run/" in reply.url):
            await act()
        await self.page.evaluate(DRAWN)
        await expect(self.notice).to_contain_text(text)

    async def scroll_to_top(self) -> None:
        await self.page.locator("#chat").hover()
        await self.page.mouse.wheel(0, -20_000)

    async def open_editor(self, index: int) -> None:
        await self.questions.nth(index).hover()
        await self.page.get_by_role("button", name="Edit").nth(index).click()
        await expect(self.editor).to_be_visible()

    async def edit_question(self, index: int, text: str) -> None:
        await self.open_editor(index)
        await self.editor.fill(text)
        await self.page.get_by_role("button", name="Submit").click()

    async def thumb(self, index: int, name: str) -> None:
        await self.answers.nth(index).hover()
        await self.page.get_by_role("button", name=name, exact=True).nth(index).click()

    async def show_sidebar(self) -> None:
        if not await self.page.locator("#sidebar.open").count():
            await self.toggle.click()
        await expect(self.page.locator("#model input")).to_be_in_viewport()

    async def hide_sidebar(self) -> None:
        await self.toggle.click()
        await expect(self.page.locator("#model input")).not_to_be_in_viewport()

    async def show_settings(self) -> None:
        await self.show_sidebar()
        if not await self.temperature.is_visible():
            await self.page.get_by_role("button", name=re.compile("^(Options|Generation settings)")).click()
            # Gradio makes the fields only now, and forgets what is typed into one in the same moment.
            await expect(self.temperature).to_be_visible()
            await self.page.evaluate(DRAWN)

    async def set_temperature(self, value: str) -> None:
        opened = bool(await self.page.locator("#sidebar.open").count())
        await self.show_settings()
        await self.temperature.fill(value)
        if not opened:
            await self.hide_sidebar()


class ComparePage:
    """The Compare tab: a question, and two columns that answer it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.composer = page.get_by_placeholder("Ask both")
        dock = page.locator("#compare-dock")
        self.send_button = dock.get_by_role("button", name="Send", exact=True)
        self.stop_button = dock.get_by_role("button", name="Stop", exact=True)
        self.difference = page.locator("#difference")

    async def open(self) -> ComparePage:
        await self.page.get_by_role("tab", name="Compare").click()
        await expect(self.composer).to_be_visible()
        return self

    def side(self, name: str) -> Locator:
        """The column ``left`` or ``right``."""
        return self.page.locator(f"#chat-{name}")

    async def choose(self, side: str, option: str) -> None:
        await self.page.get_by_label(f"{side.capitalize()} answers with").click()
        await self.page.get_by_role("option", name=option).last.click()

    async def ask(self, question: str) -> None:
        await self.composer.fill(question)
        await self.composer.press("Enter")

    async def done(self) -> None:
        for name in ("left", "right"):
            await expect(self.side(name).locator(".turn-footer")).to_contain_text("total", timeout=START_MS)
        await expect(self.send_button).to_be_visible()


async def lines_of(text: Locator) -> dict[str, int]:
    """The words of an element, and over how many lines each is drawn."""
    words: dict[str, int] = await text.evaluate(
        """element => {
          const lines = {}, walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
          for (let node; (node = walker.nextNode()); ) {
            for (const word of node.data.matchAll(/\\S+/g)) {
              const range = document.createRange();
              range.setStart(node, word.index);
              range.setEnd(node, word.index + word[0].length);
              lines[word[0]] = new Set(Array.from(range.getClientRects(), (box) => Math.round(box.top))).size;
            }
          }
          return lines;
        }"""
    )
    return words


async def edges_of(text: Locator) -> tuple[float, float]:
    """The room at the left and at the right of an element's text, in its column, in pixels."""
    left, right = await text.evaluate(
        """element => {
          const range = document.createRange();
          range.selectNodeContents(element);
          const text = range.getBoundingClientRect();
          const column = element.closest(".prose").getBoundingClientRect();
          return [text.left - column.left, column.right - text.right];
        }"""
    )
    return left, right
