"""The chat page as a visitor sees it: words for what tests do there."""

from playwright.async_api import expect

#: For what a model has to say first; everything else is quicker than Playwright's own five seconds.
TURN_MS = 30_000
#: For a model server to start: 2 to 4 s on a quiet machine.
START_MS = 60_000
#: What Gradio itself reports when a page is left in the middle of a stream; the last is an update that comes
#: to a stream which it has given up already (`apply_diff_stream`).
LEFT_MID_STREAM = r"AbortError|Connection errored out|network error|Unexpected client exception TypeError"
#: A question whose answer takes seconds at the pace of the demo engine.
LONG = f"What is {' + '.join(map(str, range(1, 31)))}?"
#: Resolves when the page has been drawn often enough for what has arrived to be seen.
DRAWN = """new Promise((resolve) => {
  const wait = (frames) => (frames ? requestAnimationFrame(() => wait(frames - 1)) : resolve());
  wait(20);
})"""


class ChatPage:
    """Wraps a Playwright page: its attributes are what is found there, its methods what a visitor does."""

    def __init__(self, page):
        self.page = page
        self.composer = page.locator("#composer textarea")
        self.send_button = page.get_by_role("button", name="Send", exact=True)
        self.stop_button = page.locator("#composer").get_by_role("button", name="Stop")
        self.undo = page.get_by_role("button", name="Undo", exact=True)
        self.questions = page.locator("#chat [data-part=question]")
        self.answers = page.locator("#chat [data-part=answer]")
        self.footers = page.locator("#chat .turn-footer")
        self.errors = page.locator("#chat .turn-error")
        self.thoughts = page.locator("#chat .thought-group")
        self.title = self.thoughts.first.locator("> .title")  # a click folds the thought
        self.thinking = self.thoughts.last.locator(".message-content").first
        self.notice = page.locator("#notice")
        self.new_chat = page.get_by_role("button", name="New chat")
        self.editor = page.locator("#chat .edit-textarea")
        self.active = page.locator("#active")
        self.model = page.locator("#model input")
        self.typed_model = page.get_by_placeholder("openai/gpt-4o-mini")
        self.temperature = page.get_by_label("Temperature")
        self.rating = page.get_by_label("Comment on the answer")
        self.sidebar = page.locator("#sidebar")

    async def open(self, url):
        await self.page.goto(url)
        return await self.loaded()

    async def reload(self):
        await self.page.reload()
        await self.loaded()

    async def loaded(self):
        """The page is drawn, and the visitor's own chat has been fetched."""
        await expect(self.composer).to_be_visible(timeout=TURN_MS)
        await self.page.wait_for_function("sessionStorage.getItem('dspy-demo-chat') !== null")
        return self

    async def send(self, question):
        await self.composer.fill(question)
        await self.composer.press("Enter")

    async def ask(self, question):
        count = await self.questions.count()
        await self.send(question)
        await expect(self.questions).to_have_count(count + 1)

    async def done(self, turns=1):
        """The turns have ended, and the composer is free again."""
        await expect(self.footers).to_have_count(turns, timeout=TURN_MS)
        await expect(self.send_button).to_be_visible()

    async def ask_each(self, *questions):
        """Of a chat that is empty."""
        for turn, question in enumerate(questions, 1):
            await self.ask(question)
            await self.done(turn)

    async def start_over(self):
        await self.show_sidebar()
        await self.new_chat.click()
        await expect(self.questions).to_have_count(0)

    async def pick(self, picker, option):
        await self.page.locator(f"#{picker} input").click()
        await self.page.get_by_role("option", name=option).click()

    async def switch(self, backend):
        await self.page.locator("#backend").get_by_text(backend, exact=True).click()

    async def is_refused(self, text, act):
        """What `act` asks is refused, and the notice is still there after all that it causes was drawn."""
        async with self.page.expect_response(lambda reply: "/run/" in reply.url):
            await act()
        await self.page.evaluate(DRAWN)
        await expect(self.notice).to_contain_text(text)

    async def open_editor(self):
        await self.questions.first.hover()
        await self.page.get_by_role("button", name="Edit").first.click()
        await expect(self.editor).to_be_visible()

    async def show_sidebar(self):
        if not await self.page.locator("#sidebar > [aria-expanded=true]").count():
            await self.page.get_by_role("button", name="Toggle Sidebar").click()
        await expect(self.model).to_be_in_viewport()

    async def show_settings(self):
        await self.show_sidebar()
        if not await self.temperature.is_visible():
            await self.page.get_by_role("button", name="Generation settings").click()
            # Gradio makes the fields only now, and forgets what is typed into one in the same moment.
            await expect(self.temperature).to_be_visible()
            await self.page.evaluate(DRAWN)

    async def set_temperature(self, value):
        """In the sidebar, which is closed then."""
        await self.show_settings()
        await self.temperature.fill(value)
        await self.page.get_by_role("button", name="Toggle Sidebar").click()
        await expect(self.model).not_to_be_in_viewport()
