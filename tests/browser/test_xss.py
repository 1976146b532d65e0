"""Nothing that a model, a tool, a visitor, a version or a program writes runs in the page, or leaves it.

The content policy is switched off (`bypass_csp`): the page has to be safe without it, but in the last test.
"""

import json
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.browser.chat_page import START_MS, ChatPage
from tests.fake_openai import Reply, tool_reply
from tests.processes import running_app

EVIL = "http://evil.example"
#: Texts that try to run a script, to load something from elsewhere, or to make a link that does. Those that
#: are "closed" can be joined; an "open" one begins what it does not end, so it can only be the last.
CORPUS = json.loads((Path(__file__).parent / "xss_corpus.json").read_text())
#: Short enough for names and labels, with everything in it: a tag, an image, a link, math and a template.
MARKUP = f"<img src=x onerror=alert(1)>![x]({EVIL}/m.png)[l](java\tscript:alert(1))$$x$$${{alert(1)}}</span>"
SHOWN = "<img src=x onerror=alert(1)>![x]"
#: One of each kind of text that a user's own program brings along.
PROGRAM = f"""
import dspy

def echo(text: str) -> str:
    {MARKUP!r}
    return text

class Evil(dspy.Signature):
    {MARKUP!r}

    question: str = dspy.InputField(desc={MARKUP!r})
    note: str = dspy.InputField(desc={MARKUP!r})
    answer: str = dspy.OutputField(desc={MARKUP!r})

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
    for (const { type, target, attributeName: name, addedNodes } of changes) {
      if (type === "attributes") checkAttribute(target, name, target.getAttribute(name) ?? "");
      for (const node of addedNodes) {
        if (node.nodeType === Node.ELEMENT_NODE) [node, ...node.querySelectorAll("*")].forEach(check);
      }
    }
  }).observe(document, { subtree: true, childList: true, attributes: true });
})();
"""


@pytest.fixture(scope="module")
def app(upstream, tmp_path_factory):
    upstream.models = [MARKUP]  # a model has a name like the rest
    home = tmp_path_factory.mktemp("xss")
    program = home / "evil.py"
    program.write_text(PROGRAM)
    options = ("--program", str(program), "--api-base", upstream.url, "--no-cache", "--lm-retries", "0")
    with running_app(*options, data_dir=home / "data", home=home) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def chat(new_page, app, upstream):
    upstream.reset()
    page = await new_page(bypass_csp=True)
    await page.add_init_script(WATCH)
    return await ChatPage(page).open(app.url)


async def nothing_found(chat):
    assert await chat.page.evaluate("window.__found") == []


async def ask_anew(chat, text, note):
    """Ask in a new chat, so that the page does not grow with the corpus."""
    await chat.start_over()
    await chat.page.locator(".program-form").get_by_label("Note").fill(note)
    await chat.ask_each(text)


def texts(size):
    """The corpus in parts of `size`: the words to be read in a part, and the part twice, with other ends."""
    closed, opened = CORPUS["closed"], CORPUS["open"]
    for start in range(0, len(closed), size):
        part = {f"probe{start + number}x": text for number, text in enumerate(closed[start : start + size])}
        text = "\n\n".join(f"{mark}\n\n{payload}" for mark, payload in part.items())
        ends = [opened[(2 * start // size + number) % len(opened)] for number in (0, 1)]
        yield part.keys(), *(f"{text}\n\nprobe-end\n\n{end}" for end in ends)


async def test_as_question_thought_tool_output_and_answer(chat, upstream):
    folded = chat.page.locator("#chat .thought-group > .title:not(.expanded)")
    for marks, first, second in texts(18):
        upstream.reply(tool_reply("echo", {"text": second}, first))
        upstream.reply(tool_reply("finish", {}, "Done."))
        upstream.reply(Reply(fields={"reasoning": first, "answer": second}, chunk_chars=0))
        await ask_anew(chat, first, note=second[:1000])
        while await folded.count():
            await folded.first.click()
        for place in (chat.questions, chat.answers.last, chat.thoughts.first):
            shown = await place.inner_text()
            assert [mark for mark in marks if mark not in shown] == []
        await nothing_found(chat)
    await chat.reload()
    await nothing_found(chat)


async def test_while_it_streams(chat, upstream):
    """In pieces of three characters, so that the page is drawn in the middle of every construct."""
    for _, text, _ in texts(len(CORPUS["closed"]) // 3 + 1):
        upstream.reply(tool_reply("finish", {}, "Done."))
        fields = {"reasoning": "So.", "answer": text}
        upstream.reply(Reply(fields=fields, chunk_chars=3, tokens_per_second=len(text) / 4))
        await ask_anew(chat, "Go on", note="none")
        await nothing_found(chat)
    await expect(chat.page.locator("#chat .md a[href^='https://ok.example']").first).to_be_attached()


async def test_as_names_descriptions_errors_and_tags(chat, upstream):
    """A model's name from its server, a program's words, a typed model, what a fault says, a version."""
    page, form, version = chat.page, chat.page.locator(".program-form"), chat.page.locator(".version")
    await expect(chat.active).to_contain_text(SHOWN)
    await expect(form).to_contain_text("<\u2060img src=x onerror=alert(1)>")
    await expect(form.locator("a:not([href^=http])")).to_have_count(0)
    upstream.reply(Reply(status=500, error_message=MARKUP))
    await ask_anew(chat, "Go on", note=MARKUP)
    await expect(chat.footers).to_contain_text(f"openai/{SHOWN}")
    await expect(chat.errors).to_be_visible()
    await expect(chat.errors).not_to_contain_text("onerror")
    await page.get_by_role("button", name="Log this program").click()
    await page.get_by_label("Description (optional)").fill(MARKUP)
    await page.get_by_label("Tags (optional)").fill(f"note={MARKUP}")
    await page.locator("#log").click()
    await expect(version.locator(".v-body > p")).to_have_text(MARKUP, timeout=START_MS)
    await expect(version.locator(".v-tags span")).to_have_text(f"note={MARKUP}")
    await version.locator("> summary").click()
    await version.get_by_text("Edit", exact=True).click()
    await expect(version.get_by_label("Description")).to_have_value(MARKUP)
    await expect(version.locator("img, script, a[href^=javascript]")).to_have_count(0)
    await chat.pick("model", "Other…")
    await chat.typed_model.fill(f"openai/typed {MARKUP}")
    await chat.typed_model.blur()
    await expect(chat.active).to_contain_text(f"typed {SHOWN}")
    await nothing_found(chat)


#: Writes markup of all kinds into the page; the directives of the policy that refused something of it.
WRITE = """async (evil) => {
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
}"""


async def test_markup_that_got_in_would_be_kept_from_running_and_loading(new_page, app, problems):
    """The second wall alone: what the content policy refuses in a page that was written into."""
    problems.allowed.append(r"Content Security Policy|(?i:csp)|404 \(Not Found\)")
    page = await new_page()
    await ChatPage(page).open(app.url)
    refused = "connect-src form-action frame-src img-src media-src object-src"
    refused += " script-src-attr script-src-elem style-src-elem"
    assert await page.evaluate(WRITE, EVIL) == refused.split()
    assert await page.evaluate("window.__xss") is None
    blocked = [seen for seen in problems.seen if seen.startswith("request: ") and "csp" in seen.lower()]
    assert [url for url in problems.foreign if not any(url in seen for seen in blocked)] == []
    problems.foreign.clear()
