"""How the page draws what models write, and the images that a program takes."""

import base64
import re
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.browser.chat_page import ChatPage
from tests.browser.conftest import DESKTOP, PHONE, on_a_phone
from tests.processes import running_app

CASE = Path(__file__).parents[1] / "cases" / "describes_images.py"
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
TEX = [r"e^{i\pi} + 1 = 0", r"a<{\relax}b", "n", "x_i", r"\frac{1}{2}", r"\int_0^1 x^2\,dx < 1", "a^2", "b^2"]
RIGHT_TO_LEFT = """
مرحبا بالعالم. هذه فقرة.

- عنصر أول

שלום עולם עם Python ו-`code`.

1. פריט ראשון

From left to right.
"""
#: The words of an element, and over how many lines each is drawn.
LINES = """element => {
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
#: The room at the left and at the right of an element's text, in its column, in pixels.
EDGES = """element => {
  const range = document.createRange();
  range.selectNodeContents(element);
  const text = range.getBoundingClientRect();
  const column = element.closest(".prose").getBoundingClientRect();
  return [text.left - column.left, column.right - text.right];
}"""
#: One red pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
#: Pastes a large picture of noise.
PASTE = """async field => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 2000, height: 1500 });
  const pen = canvas.getContext("2d"), noise = pen.createImageData(2000, 1500);
  for (let at = 0; at < noise.data.length; at++) noise.data[at] = (at * 7919) % 251 ^ (at >> 3);
  pen.putImageData(noise, 0, 0);
  const png = await new Promise((done) => canvas.toBlob(done, "image/png"));
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File([png], "noise.png", { type: "image/png" }));
  field.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def app(upstream, tmp_path_factory):
    home = tmp_path_factory.mktemp("drawing")
    options = ("--program", str(CASE), "--api-base", upstream.url, "--no-cache", "--lm-retries", "0")
    with running_app(*options, data_dir=home / "data", home=home) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def chat(new_page, app, upstream):
    upstream.reset()
    page = await new_page(permissions=["clipboard-read", "clipboard-write"])
    return await ChatPage(page).open(app.url)


async def show(chat, upstream, written):
    """The answer that the model writes next."""
    upstream.reply(fields={"reasoning": "So.", "answer": written.strip()})
    turns = await chat.footers.count()
    await chat.ask("Go on")
    await chat.done(turns + 1)
    return chat.answers.last


async def test_a_table_breaks_between_words_and_scrolls_by_itself(chat, upstream):
    await chat.pick("program", "Chain of thought")
    table = (await show(chat, upstream, TABLE)).get_by_role("table")
    for viewport in (DESKTOP, PHONE):
        await chat.page.set_viewport_size(viewport)
        await expect(table).to_be_visible()
        lines = await table.evaluate(LINES)
        # A hyphen is a place to break; no other word and no number has one.
        assert {word: count for word, count in lines.items() if count > 1 and "-" not in word[1:]} == {}
        assert lines["1995"] == lines["$1,299.00"] == lines["-3.25"] == 1
        assert await chat.page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        hidden = await table.evaluate("table => table.scrollWidth - table.clientWidth")
        assert (hidden > 0) == (viewport == PHONE)
    await expect(table.get_by_role("cell", name="1995")).to_have_css("text-align", "right")


async def test_lists_maths_money_code_and_each_direction_are_drawn_and_copied_as_they_were_written(
    chat, upstream
):
    await chat.pick("program", "Chain of thought")
    answer = await show(chat, upstream, LISTS)
    style = "item => [getComputedStyle(item).listStyleType, getComputedStyle(item).fontSize]"
    styles = [await item.evaluate(style) for item in await answer.get_by_role("listitem").all()]
    assert styles == [[sign, "16px"] for sign in ("none", "none", "none", "circle", "square")]
    boxes = await answer.get_by_role("checkbox").all()
    drawn = [await box.evaluate("box => getComputedStyle(box).backgroundImage !== 'none'") for box in boxes]
    assert drawn == [await box.is_checked() for box in boxes] == [True, False, True]
    before = await answer.get_by_text("Before the rule").bounding_box()
    after = await answer.get_by_text("After the rule").bounding_box()
    assert after["y"] - before["y"] - before["height"] < 60

    answer = await show(chat, upstream, MATHS)
    await expect(answer.locator("annotation")).to_have_text(TEX)
    await expect(answer.locator(".katex-error")).to_have_count(0)
    money = "It costs $5 and $10, US$5/A$6, $20-$30, or $5/$7, in $HOME or ${A}/${B}, $x$ and $ y $."
    await expect(answer.get_by_text("It costs")).to_have_text(money)
    await expect(answer.get_by_text("Code:")).to_have_text("Code: $c$ and \\(d\\).")
    await expect(answer.locator("pre code")).to_have_text('echo "$e$" \\(f\\)\n')
    image = answer.get_by_role("link", name="cat")  # which only a click would fetch
    await expect(image).to_have_attribute("href", "https://else.example/cat.png")
    await chat.page.get_by_role("button", name="Copy message").last.click()
    assert await chat.page.evaluate("navigator.clipboard.readText()") == MATHS.strip()

    answer = await show(chat, upstream, RIGHT_TO_LEFT)
    for text in ("مرحبا", "عنصر", "שלום", "פריט"):
        left, right = await answer.get_by_text(text).evaluate(EDGES)
        assert right < min(left, 40), "no further from the edge than a list's sign"
    left, _ = await answer.get_by_text("From left to right.").evaluate(EDGES)
    assert left == 0


def seen(upstream):
    """The images that the model got with the last question."""
    contents = [message["content"] for message in upstream.streams[-1].request.json["messages"]]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


@on_a_phone
async def test_an_image_is_a_file_a_paste_or_an_address_and_comes_by_the_api(chat, app, upstream):
    box = chat.page.locator(".image-input").filter(has_text="Image").first
    other = chat.page.locator(".image-input").filter(has_text="Other").first
    field = box.get_by_role("textbox")
    await field.fill("/etc/passwd")
    await chat.composer.fill("What is it?")
    await chat.is_refused("This is no image", lambda: chat.composer.press("Enter"))
    await expect(chat.composer).to_have_value("What is it?")
    assert upstream.streams == []

    async with chat.page.expect_file_chooser() as chooser:
        await box.get_by_role("button", name="Choose a file").click()
    await (await chooser.value).set_files([{"name": "red.png", "mimeType": "image/png", "buffer": PNG}])
    await expect(field).to_have_value(re.compile("^data:image/jpeg"))
    chosen = await field.input_value()
    await chat.ask_each("What is it?")
    await expect(chat.errors).to_have_count(0)
    assert seen(upstream) == [chosen]
    await expect(chat.page.locator(".turn-inputs")).to_have_text("Image: a picture of 1 kB")

    await field.evaluate(PASTE)
    await expect(field).not_to_have_value(chosen)
    await other.get_by_role("textbox").fill("https://pictures.example/cat.png")
    await chat.ask("What are they?")
    await chat.done(2)
    pasted, address = seen(upstream)
    assert pasted.startswith("data:image/jpeg;base64,")
    assert len(pasted) <= 150_000
    assert address == "https://pictures.example/cat.png"

    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    for image in ({"url": url}, url):
        body = {"inputs": {"question": "What is it?", "image": image}}
        assert (await chat.page.request.post(f"{app.url}/predict", data=body)).status == 200
        assert seen(upstream) == [url]
