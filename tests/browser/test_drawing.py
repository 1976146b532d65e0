"""How the page draws what models write: tables, lists, maths, code, and scripts from right to left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Locator, expect

from tests.browser.chat_page import ChatPage, edges_of, lines_of
from tests.browser.conftest import DESKTOP, PHONE, NewPage
from tests.fake_openai import FakeOpenAI, Reply
from tests.processes import ServerProcess, running_app

TABLE = """
| Language | Year | Typing | Paradigm and what it is known for | Price |
|:--|--:|:-:|---|---|
| JavaScript | 1995 | dynamically typed | Object-oriented, imperative, functional | $1,299.00 |
| Rust | 2015 | static | concurrent, generic, memory-safe | -3.25 |
"""
LISTS = """
- [x] Done with **this**
- [ ] Not done yet
    - [x] Nested and done
    - Second level
        - Third level

Before the rule

---

After the rule
"""
MATHS = r"""
Euler: $e^{i\pi} + 1 = 0$, and **$a<b$** for the $n$th one; in lines:

- item with $x_i$
    - and $\frac{1}{2}$

$$\int_0^1 x^2\,dx < 1$$ and \(a^2\) and \[b^2\]

It costs $5 and $10, US$5/A$6, $20-$30, or **$5**/**$7**, in $HOME or ${A}/${B}, \$x\$ and $ y $.

A ![cat](https://else.example/cat.png), <b> and [x](javascript:1).

Code: `$c$` and `\(d\)`.

```sh
echo "$e$" \(f\)
```
"""
#: What of it is drawn as maths, in TeX; a `<` has something behind it that draws nothing.
DRAWN = [
    *(r"e^{i\pi} + 1 = 0", r"a<{\relax}b", "n", "x_i", r"\frac{1}{2}"),
    *(r"\int_0^1 x^2\,dx < 1", "a^2", "b^2"),
]
RIGHT_TO_LEFT = """
مرحبا بالعالم. هذه فقرة.

- عنصر أول

שלום עולם עם Python ו-`code`.

1. פריט ראשון

From left to right.
"""


@pytest.fixture(scope="module")
def app(upstream: FakeOpenAI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("drawing")
    options = ("--api-base", upstream.url, "--no-cache", "--lm-retries", "0")
    with running_app(*options, data_dir=home / "data", home=home) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def chat(new_page: NewPage, app: ServerProcess, upstream: FakeOpenAI) -> ChatPage:
    upstream.reset()
    page = await new_page(permissions=["clipboard-read", "clipboard-write"])
    return await ChatPage(page).open(app.url)


async def show(chat: ChatPage, upstream: FakeOpenAI, written: str) -> Locator:
    """The answer that the model writes next."""
    upstream.reply(Reply(fields={"reasoning": "So.", "answer": written.strip()}))
    turns = await chat.footers.count()
    await chat.ask("Go on")
    await chat.done(turns + 1)
    return chat.answers.last


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_a_table_breaks_between_words_and_scrolls_by_itself(
    chat: ChatPage, upstream: FakeOpenAI, viewport: dict[str, int]
) -> None:
    table = (await show(chat, upstream, TABLE)).get_by_role("table")
    await expect(table).to_be_visible()
    lines = await lines_of(table)
    # A hyphen is a place to break; no other word and no number has one.
    assert {word: count for word, count in lines.items() if count > 1 and "-" not in word[1:]} == {}
    assert lines["1995"] == lines["$1,299.00"] == lines["-3.25"] == 1
    assert await chat.width() <= viewport["width"]
    hidden = await table.evaluate("table => table.scrollWidth - table.clientWidth")
    assert (hidden > 0) == (viewport == PHONE)
    await expect(table.get_by_role("cell", name="1995")).to_have_css("text-align", "right")


async def test_lists_maths_money_code_and_each_direction_are_drawn_and_copied_as_they_were_written(
    chat: ChatPage, upstream: FakeOpenAI
) -> None:
    answer = await show(chat, upstream, LISTS)
    style = "item => [getComputedStyle(item).listStyleType, getComputedStyle(item).fontSize]"
    styles = [await item.evaluate(style) for item in await answer.get_by_role("listitem").all()]
    assert styles == [[sign, "16px"] for sign in ("none", "none", "none", "circle", "square")]
    boxes = await answer.get_by_role("checkbox").all()
    drawn = [await box.evaluate("box => getComputedStyle(box).backgroundImage !== 'none'") for box in boxes]
    assert drawn == [await box.is_checked() for box in boxes] == [True, False, True]
    before = await answer.get_by_text("Before the rule").bounding_box()
    after = await answer.get_by_text("After the rule").bounding_box()
    assert before and after and after["y"] - before["y"] - before["height"] < 60

    answer = await show(chat, upstream, MATHS)
    await expect(answer.locator("annotation")).to_have_text(DRAWN)
    await expect(answer.locator(".katex-error")).to_have_count(0)
    money = "It costs $5 and $10, US$5/A$6, $20-$30, or $5/$7, in $HOME or ${A}/${B}, $x$ and $ y $."
    await expect(answer.get_by_text("It costs")).to_have_text(money)
    await expect(answer.get_by_text("Code:")).to_have_text("Code: $c$ and \\(d\\).")
    await expect(answer.locator("pre code")).to_have_text('echo "$e$" \\(f\\)\n')
    image = answer.get_by_role("link", name="cat")  # which only a click would fetch
    await expect(image).to_have_attribute("href", "https://else.example/cat.png")
    assert await chat.copied() == MATHS.strip()

    answer = await show(chat, upstream, RIGHT_TO_LEFT)
    for text in ("مرحبا", "عنصر", "שלום", "פריט"):
        left, right = await edges_of(answer.get_by_text(text))
        assert right < left
        assert right < 40, "no further from the edge than a list's sign"
    left, right = await edges_of(answer.get_by_text("From left to right."))
    assert left == 0
