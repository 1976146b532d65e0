"""Nothing that a model, a tool, a visitor, a version or a program writes runs in the page, or leaves it.

The content policy is switched off (`bypass_csp`): the page has to be safe without it, but in the last test.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from tests.browser.chat_page import ChatPage
from tests.browser.conftest import NewPage, Problems
from tests.fake_openai import FakeOpenAI, Reply, tool_reply
from tests.processes import ServerProcess, running_app

EVIL = "http://evil.example"
#: Texts that try to run a script, to load something from elsewhere, or to make a link that does. Those that
#: are "closed" can be joined; an "open" one begins what it does not end, so it can only be the last.
CORPUS = json.loads((Path(__file__).parent / "xss_corpus.json").read_text())
#: Short enough for names and labels, with everything in it: a tag, an image, a link, math and a template.
MARKUP = f"<img src=x onerror=alert(1)>![x]({EVIL}/m.png)[l](java\tscript:alert(1))$$x$$${{alert(1)}}</span>"
#: One of each kind of text that a user's own program brings along.
PROGRAM = """
    import dspy


    def echo(text: str) -> str:
        {markup!r}
        return text


    class Evil(dspy.Signature):
        {markup!r}

        question: str = dspy.InputField(desc={markup!r})
        note: str = dspy.InputField(desc={markup!r})
        answer: str = dspy.OutputField(desc={markup!r})


    program = dspy.ReAct(Evil, tools=[echo])
"""

#: Runs before the page's own scripts, and notes every element that others' text must not become: what stays
#: as well as what is there for a moment while an answer streams.
WATCH = """
(() => {
  const found = (window.__found = []);
  for (const name of ["alert", "confirm", "prompt", "print"]) window[name] = () => found.push(name);
  Object.defineProperty(window, "__xss", { set: () => found.push("a script ran") });

  const TAGS = new Set(`A P BR EM STRONG DEL CODE PRE SPAN DIV UL OL LI BLOCKQUOTE H1 H2 H3 H4 H5 H6 HR
    TABLE THEAD TBODY TR TH TD`.split(/\\s+/));
  const ATTRIBUTES = new Set("class href target rel title align start role dir".split(" "));
  const LOADING = /^(src|srcset|href|xlink:href|poster|data|action|formaction|background|ping|style)$/;
  const note = (what, node) => found.push(`${what}: ${node.outerHTML.slice(0, 200)}`);

  const checkAttribute = (node, name, value) => {
    if (name.startsWith("on")) note(name, node);
    if (!LOADING.test(name) || node.closest("head")) return;
    if (/^\\W*(javascript|data|vbscript|file|blob):/i.test(value)) note(name, node);
    if (value.includes("evil.example") && !node.matches("a[href]")) note(name, node);
  };
  const check = (node) => {
    for (const { name, value } of node.attributes) checkAttribute(node, name, value);
    const text = node.parentElement?.closest(".md");
    if (!text) return;
    if (node.closest(".katex, .katex-error, button.copy_code_button")) {
      if (node.matches("script, a, img, image, iframe, form, foreignObject")) note("in math", node);
      return;
    }
    if (node.matches("input[type=checkbox][disabled], .turn-inputs b")) return;
    if (!TAGS.has(node.tagName) || node.matches(".mermaid")) note("element", node);
    for (const { name } of node.attributes) if (!ATTRIBUTES.has(name)) note(name, node);
    if (node.tagName === "A") {
      const safe = /^(https?:\\/\\/|mailto:)/.test(node.getAttribute("href") ?? "https://");
      if (!safe || node.target !== "_blank" || node.rel !== "noopener noreferrer") note("link", node);
    }
  };
  new MutationObserver((changes) => {
    for (const { type, target, attributeName, addedNodes } of changes) {
      if (type === "attributes") {
        checkAttribute(target, attributeName, target.getAttribute(attributeName) ?? "");
      }
      for (const node of addedNodes) {
        if (node.nodeType !== Node.ELEMENT_NODE) continue;
        check(node);
        node.querySelectorAll("*").forEach(check);
      }
    }
  }).observe(document, { subtree: true, childList: true, attributes: true });
})();
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeOpenAI]:
    """A server whose only model has a name like the rest."""
    with FakeOpenAI() as fake:
        fake.models = [MARKUP]
        yield fake


@pytest.fixture(scope="module")
def app(upstream: FakeOpenAI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("xss")
    program = home / "evil.py"
    program.write_text(textwrap.dedent(PROGRAM).format(markup=MARKUP))
    options = ("--program", str(program), "--api-base", upstream.url, "--no-cache", "--lm-retries", "0")
    with running_app(*options, data_dir=home / "data", home=home) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def chat(new_page: NewPage, app: ServerProcess, upstream: FakeOpenAI) -> ChatPage:
    upstream.reset()
    upstream.models = [MARKUP]
    page = await new_page(bypass_csp=True)
    await page.add_init_script(WATCH)
    return await ChatPage(page).open(app.url)


#: Opens every thought, and the tools in it.
UNFOLD = """async () => {
  let title;
  while ((title = document.querySelector("#chat .thought-group > .title:not(.expanded)"))) {
    title.click();
    await new Promise(requestAnimationFrame);
  }
}"""


async def nothing_found(page: Page) -> None:
    assert await page.evaluate("window.__found") == []


async def ask(chat: ChatPage, text: str, note: str) -> None:
    """Ask in a new chat, so that the page does not grow with the corpus."""
    await chat.page.locator("#new-chat").click()
    await expect(chat.questions).to_have_count(0)
    await chat.page.locator(".program-form").get_by_label("Note").fill(note)
    await chat.ask(text)


def texts(size: int = 18) -> Iterator[tuple[list[str], str, str]]:
    """The corpus in parts of `size`: the words to be read in a part, and the part twice, with other ends."""
    closed, opened = CORPUS["closed"], CORPUS["open"]
    for start in range(0, len(closed), size):
        part = closed[start : start + size]
        marks = [f"probe{start + number}x" for number in range(len(part))]
        text = "\n\n".join(f"{mark}\n\n{payload}" for mark, payload in zip(marks, part, strict=True))
        ends = [opened[(2 * start // size + number) % len(opened)] for number in (0, 1)]
        yield marks, *(f"{text}\n\nprobe-end\n\n{end}" for end in ends)


async def test_as_question_thought_tool_output_and_answer(chat: ChatPage, upstream: FakeOpenAI) -> None:
    for marks, first, second in texts():
        upstream.reply(tool_reply("echo", {"text": second}, first))
        upstream.reply(tool_reply("finish", {}, "Done."))
        upstream.reply(Reply(fields={"reasoning": first, "answer": second}, chunk_chars=0))
        await ask(chat, first, note=second[:1000])
        await chat.done()
        await chat.page.evaluate(UNFOLD)
        places = [chat.questions.last, chat.answers.last, chat.page.locator("#chat .thought-group").first]
        shown = [await place.inner_text() for place in places]
        assert [mark for mark in marks if any(mark not in text for text in shown)] == []
        await nothing_found(chat.page)
    await chat.reload()
    await nothing_found(chat.page)


async def test_while_it_streams(chat: ChatPage, upstream: FakeOpenAI) -> None:
    """In pieces of three characters, so that the page is drawn in the middle of every construct."""
    for _, text, _ in texts(len(CORPUS["closed"]) // 3 + 1):
        upstream.reply(tool_reply("finish", {}, "Done."))
        streamed = {"chunk_chars": 3, "tokens_per_second": len(text) / 4}
        upstream.reply(Reply(fields={"reasoning": "So.", "answer": text}, **streamed))
        await ask(chat, "Go on", note="none")
        await chat.done()
        await nothing_found(chat.page)
    await expect(chat.page.locator("#chat .md a[href^='https://ok.example']").first).to_be_attached()


async def test_as_names_descriptions_errors_and_tags(chat: ChatPage, upstream: FakeOpenAI) -> None:
    """A model's name from its server, a program's words, a typed model, what a fault says, a version."""
    page, shown = chat.page, "<img src=x onerror=alert(1)>![x]"
    await expect(page.locator("#active")).to_contain_text(shown)
    await expect(page.locator(".program-form")).to_contain_text("<\u2060img src=x onerror=alert(1)>")
    await expect(page.locator(".program-form a:not([href^=http])")).to_have_count(0)
    upstream.reply(Reply(status=500, error_message=MARKUP))
    await ask(chat, "Go on", note=MARKUP)
    await chat.done()
    await expect(chat.footers).to_contain_text(f"openai/{shown}")
    await expect(page.locator(".turn-error")).to_be_visible()
    await expect(page.locator(".turn-error")).not_to_contain_text("onerror")
    await page.get_by_role("button", name="Log this program").click()
    await page.get_by_label("Description (optional)").fill(MARKUP)
    await page.get_by_label("Tags (optional)").fill(f"note={MARKUP}")
    await page.locator("#log").click()
    version = page.locator(".version")
    await expect(version).to_be_visible(timeout=60_000)
    await expect(version.locator(".v-body > p")).to_have_text(MARKUP, timeout=60_000)
    await expect(version.locator(".v-tags span")).to_have_text(f"note={MARKUP}")
    await version.locator("> summary").click()
    await version.get_by_text("Edit", exact=True).click()
    await expect(version.get_by_label("Description")).to_have_value(MARKUP)
    assert await version.locator("img, script, a[href^=javascript]").count() == 0
    await chat.pick("model", "Other…")
    await chat.typed_model.fill(f"openai/typed {MARKUP}")
    await chat.typed_model.blur()
    await expect(page.locator("#active")).to_contain_text(f"typed {shown}")
    await nothing_found(page)


async def test_markup_that_got_in_would_be_kept_from_running_and_loading(
    new_page: NewPage, app: ServerProcess, problems: Problems
) -> None:
    """The second wall alone: what the content policy refuses in a page that was written into."""
    problems.allow(r"Content Security Policy|(?i:csp)|404 \(Not Found\)")
    page = await new_page()
    await ChatPage(page).open(app.url)
    refused = await page.evaluate(
        """async (evil) => {
          const refused = new Set();
          addEventListener("securitypolicyviolation", (event) => refused.add(event.effectiveDirective));
          const box = document.body.appendChild(document.createElement("div"));
          box.innerHTML = `<img src=x onerror="window.__xss = 1"><img src="${evil}/i.png">
            <iframe src="${evil}"></iframe><object data="${evil}/o"></object><video src="${evil}/v"></video>
            <div style="background: url(${evil}/b.png)">x</div><link rel=stylesheet href="${evil}/c.css">
            <form action="${evil}"><button>x</button></form>`;
          const script = document.createElement("script");
          script.textContent = "window.__xss = 2";
          box.append(script);
          box.querySelector("button").click();
          await fetch(evil).catch(() => {});
          for (let turn = 0; turn < 50 && refused.size < 9; turn++) {
            await new Promise((done) => setTimeout(done, 100));
          }
          return [...refused].sort();
        }""",
        EVIL,
    )
    assert refused == [
        *("connect-src", "form-action", "frame-src", "img-src", "media-src", "object-src"),
        *("script-src-attr", "script-src-elem", "style-src-elem"),
    ]
    assert await page.evaluate("window.__xss") is None
    blocked = [seen for seen in problems.seen if seen.startswith("request: ") and "csp" in seen.lower()]
    assert [url for url in problems.foreign if not any(url in seen for seen in blocked)] == []
    problems.foreign.clear()
