"""The chat page as a visitor sees it: words for what tests do there."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from playwright.async_api import Locator, Page, Request, Response, expect

#: For what a model has to say first; everything else is quicker than Playwright's own five seconds.
TURN_MS = 30_000
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
        self.stop_button = page.get_by_role("button", name="Stop", exact=True)
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
        await self.page.wait_for_function("localStorage.getItem('dspy-demo-chat') !== null")

    async def ask(self, question: str) -> None:
        """Send a question and wait until it is on the page."""
        count = await self.questions.count()
        await self.composer.fill(question)
        await self.composer.press("Enter")
        await expect(self.questions).to_have_count(count + 1)

    async def done(self, turns: int = 1) -> None:
        """All turns have ended, and the composer is free again."""
        await expect(self.footers).to_have_count(turns, timeout=TURN_MS)
        await expect(self.send_button).to_be_visible()

    async def pick(self, picker: str, option: str) -> None:
        """Choose a row of the model or the program picker."""
        await self.page.locator(f"#{picker} input").click()
        await self.page.get_by_role("option", name=option).click()

    def title(self, index: int = 0) -> Locator:
        """The line of a thought that opens and closes it."""
        return self.thoughts.nth(index).locator("> .title")

    async def is_refused(self, text: str, act: Callable[[], Awaitable[None]]) -> None:
        """What `act` asks is refused, and the notice is still there after the last event that it causes.

        A question is accepted, drawn and settled; the first and the last of these are plain requests.
        """
        sent: list[Request] = []
        answered: list[Request] = []

        def settled(reply: Response) -> bool:
            answered.extend(request for request in sent if request == reply.request)
            return len(answered) == 2

        def note(request: Request) -> None:
            sent.extend([request] if "/run/" in request.url else [])

        self.page.on("request", note)
        async with self.page.expect_response(settled):
            await act()
        self.page.remove_listener("request", note)
        await self.page.evaluate(DRAWN)
        await expect(self.notice).to_contain_text(text)

    async def scroll_to_top(self) -> None:
        """As a reader does, with the wheel."""
        await self.page.locator("#chat").hover()
        await self.page.mouse.wheel(0, -20_000)

    async def open_editor(self, index: int) -> None:
        """Begin to edit a question."""
        await self.questions.nth(index).hover()
        await self.page.get_by_role("button", name="Edit").nth(index).click()
        await expect(self.editor).to_be_visible()

    async def edit_question(self, index: int, text: str) -> None:
        """Ask an edited question."""
        await self.open_editor(index)
        await self.editor.fill(text)
        await self.page.get_by_role("button", name="Submit").click()

    async def thumb(self, index: int, name: str) -> None:
        """Rate an answer: Like or Dislike."""
        await self.answers.nth(index).hover()
        await self.page.get_by_role("button", name=name, exact=True).nth(index).click()

    async def show_sidebar(self) -> None:
        """Open the sidebar where it is closed, as on a phone."""
        if not await self.page.locator("#sidebar.open").count():
            await self.toggle.click()
        await expect(self.page.locator("#model input")).to_be_in_viewport()

    async def hide_sidebar(self) -> None:
        """Close the sidebar where it lies over the chat, as on a phone."""
        await self.toggle.click()
        await expect(self.page.locator("#model input")).not_to_be_in_viewport()

    async def show_settings(self) -> None:
        """Open the model's settings in the sidebar."""
        await self.show_sidebar()
        if not await self.temperature.is_visible():
            await self.page.get_by_role("button", name=re.compile("^(Options|Generation settings)")).click()
            # Gradio makes the fields only now, and forgets what is typed into one in the same moment.
            await expect(self.temperature).to_be_visible()
            await self.page.evaluate(DRAWN)

    async def set_temperature(self, value: str) -> None:
        """Type the temperature into the model's settings."""
        opened = bool(await self.page.locator("#sidebar.open").count())
        await self.show_settings()
        await self.temperature.fill(value)
        if not opened:
            await self.hide_sidebar()
