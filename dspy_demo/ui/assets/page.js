// Runs once, before Gradio draws the page: what no setting of Gradio offers. Parts of Gradio are found by role
// and label, as a screen reader finds them; where one of these changes, its line does nothing.
const PARTS = {
  toggle: "#sidebar > button", // opens and closes the sidebar
  thought: "#chat [role=log] [role=button]", // the line that folds a thought, whose text stands behind it
  source: "[role=log] [aria-label*='s message: ']", // a message, named by its author and its whole source text
  row: "[role=log] > div:not([role]) > *", // all messages of an author in a turn, or the buttons below them
  toast: "[role=status][aria-live]", // says that the connection was lost
};
(() => {
  const phone = matchMedia("(max-width: 767px)"), touch = matchMedia("(pointer: coarse)");
  const find = (selector) => document.querySelector(selector);
  const composer = () => find("#composer textarea");
  const editor = () => find("#chat textarea");
  const button = (place, name) => [...document.querySelectorAll(`${place} button`)].find(
    (one) => [one.textContent.trim(), one.title, one.ariaLabel].includes(name));
  const running = () => button("#composer", "Stop");
  const endEdit = (how) => editor() && button("#chat", how)?.click();
  const write = (field, text) => {
    field.value = text;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  };

  // Whether the sidebar is open is said to screen readers, and page.css shows it by that. On a phone it would
  // cover the chat, so it starts closed there; a tap beside it closes it.
  const sidebar = (open) => { find(PARTS.toggle).ariaExpanded = open; };
  const isOpen = () => find(PARTS.toggle)?.ariaExpanded === "true";
  addEventListener("click", ({ target }) => target.closest?.(PARTS.toggle) && sidebar(!isOpen()));
  document.addEventListener("pointerdown", (event) => {
    if (phone.matches && isOpen() && !event.target.closest("#sidebar, [role=listbox]")) {
      event.preventDefault();
      sidebar(false);
    }
  });

  // What is copied is what was written, without the signs that keep it from being read as HTML (text.py).
  const ANSWER = "<!--answer-->\n\n";
  const asWritten = (text) => text
    .slice(text.includes(ANSWER) ? text.indexOf(ANSWER) + ANSWER.length : 0)
    .replace(/\n<div class="turn-(error|footer)[^]*$/, "")
    .replaceAll("\u2060Image: \u2060", "!")
    .replace(/\u2060\\\((.*?)\\\)\u2060/g, (_, tex) => `$${tex}$`)
    .replaceAll("{\\relax}", "")
    .replaceAll("\u2060", "");
  const copy = navigator.clipboard?.writeText.bind(navigator.clipboard);
  if (copy) navigator.clipboard.writeText = (text) => copy(asWritten(text));
  document.addEventListener("copy", (event) => {
    const { value, selectionStart: start, selectionEnd: end } = document.activeElement;
    const selected = value?.slice(start, end) || String(getSelection());
    if (!selected.includes("\u2060") && !selected.includes(ANSWER)) return;
    event.clipboardData.setData("text/plain", asWritten(selected));
    event.preventDefault();
  });

  // An image for a program: a chosen or pasted file is made small (programs/inputs.py) and put into the field
  // as a data URL, so that nothing is uploaded and no file is stored.
  const IMAGE_MAX_CHARS = 150_000;
  const asDataURL = async (file) => {
    const picture = await createImageBitmap(file), canvas = document.createElement("canvas");
    for (let side = 1536; ; side *= 0.75) {
      const scale = Math.min(1, side / Math.max(picture.width, picture.height));
      [canvas.width, canvas.height] = [picture.width, picture.height].map((n) => Math.max(1, n * scale));
      const pen = canvas.getContext("2d");
      pen.fillStyle = "#fff"; // behind what is transparent, which JPEG would make black
      pen.fillRect(0, 0, canvas.width, canvas.height);
      pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
      const url = canvas.toDataURL("image/jpeg", 0.85);
      if (url.length <= IMAGE_MAX_CHARS) return url;
    }
  };
  const fill = async (field, file) => {
    const url = await asDataURL(file).catch(() => "");
    field.setCustomValidity(url ? "" : "This file is no picture that the browser can read.");
    url ? write(field, url) : field.reportValidity();
  };
  const imageField = (target) => target.closest?.(".image-input")?.querySelector("textarea, input");
  document.addEventListener("click", (event) => {
    const field = event.target.closest?.("button") && imageField(event.target);
    if (!field) return;
    event.preventDefault();
    event.stopPropagation();
    const chooser = Object.assign(document.createElement("input"), { type: "file", accept: "image/*" });
    chooser.addEventListener("change", () => chooser.files[0] && fill(field, chooser.files[0]));
    chooser.click();
  }, true);
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
    if (!file || !imageField(event.target)) return;
    event.preventDefault();
    fill(imageField(event.target), file);
  });
  document.addEventListener("input", ({ target: field }) => {
    if (imageField(field) !== field) return;
    const filled = field.value.startsWith("data:image/");
    Object.assign(field.style, filled
      ? { backgroundImage: `url("${field.value}")`, color: "transparent" } : { backgroundImage: "", color: "" });
  });

  // What the browser keeps, for a tab or for all; nothing in another site's frame.
  const kept = (area) => ({
    get(name) { try { return JSON.parse(area().getItem(`dspy-demo-${name}`)); } catch { return null; } },
    set(name, value) {
      try { area().setItem(`dspy-demo-${name}`, JSON.stringify(value)); return true; } catch { return false; }
    },
    drop(name) { try { area().removeItem(`dspy-demo-${name}`); } catch { /* forbidden */ } },
  });
  const tab = kept(() => sessionStorage), all = kept(() => localStorage), CHATS_KEPT = 10;
  const left = tab.get("left") ?? {};
  addEventListener("pagehide", () => {
    const lost = [...document.querySelectorAll(PARTS.toast)].some((it) => /Connection/.test(it.textContent));
    tab.set("left", { draft: composer()?.value ?? "", lost });
  });

  // Called by the events of the page.
  const SILENT_MS = 15_000;
  let restored = false, told = 0, drawing = "", silent;
  window.chatPage = {
    sidebar,
    // Each chat has a key of its own. A tab goes on with its chat; a new tab with a copy of the latest one.
    chat() {
      const own = tab.get("chat"), id = own ?? all.get("chats")?.[0];
      const { turns } = all.get(`chat-${id}`) ?? {};
      return JSON.stringify({ chat: own ?? "", turns, lost: left.lost });
    },
    // An older answer that comes after a newer one has drawn over it, so the page asks for another ("retry").
    // It asks for the drawing of a turn that runs ("play"), and again where nothing is heard of it for long.
    follow(text, ask) {
      const { number, chat, live, turns } = JSON.parse(text);
      if (number < told) return ask("retry");
      told = number;
      clearTimeout(silent);
      if (live) silent = setTimeout(ask, SILENT_MS, "retry");
      if (live && live !== drawing) {
        ask("play");
        const list = find("#chat [role=log]"); // which holds the new question after two frames
        requestAnimationFrame(() => requestAnimationFrame(() => list?.scrollTo(0, list.scrollHeight)));
      }
      drawing = live;
      this.keep(chat, turns);
    },
    keep(chat, turns) {
      const before = tab.get("chat");
      if (before && before !== chat) all.drop(`chat-${before}`);
      const ids = [chat, ...(all.get("chats") ?? []).filter((id) => id !== chat && id !== before)];
      for (const id of ids.splice(CHATS_KEPT)) all.drop(`chat-${id}`);
      while (!all.set(`chat-${chat}`, { turns }) && ids.length > 1) all.drop(`chat-${ids.pop()}`);
      all.set("chats", ids);
      tab.set("chat", chat);
    },
    // A draft outlives a reload, also the one by which Gradio comes back after the connection was lost.
    draft() {
      if (!phone.matches && !touch.matches) composer()?.focus(); // elsewhere a keyboard would cover the page
      return composer()?.value || left.draft || ""; // somebody may have typed already
    },
    // What is picked in the sidebar: of this tab, else what this browser had last.
    own(name, last) {
      restored = true;
      return tab.get(name) ?? last;
    },
    typed(last, now) {
      const own = this.own("choices", last) ?? {};
      return Object.keys(now).map((name) => own[name] ?? now[name]);
    },
    choose(last, chosen) {
      if (!restored) return [last];
      // A base URL may hold a password, which is kept nowhere.
      const own = { ...chosen, base: chosen.base?.includes("@") ? "" : chosen.base };
      tab.set("choices", own);
      return [own];
    },
    // Names the turns that the page shows when it is clicked, which the server may have left behind.
    byId(given) {
      endEdit("Cancel");
      const rest = { content: [{ type: "text", text: "" }], options: null };
      const bare = ({ role, metadata }) => ({ role, metadata: { id: metadata?.id ?? "" }, ...rest });
      return given.map((value) => (Array.isArray(value) && value[0]?.role ? value.map(bare) : value));
    },
    newChat() {
      endEdit("Cancel");
      if (phone.matches) sidebar(false);
      if (!touch.matches) composer()?.focus();
      return [];
    },
  };

  addEventListener("click", ({ target }) => target.closest?.("[data-do=reload]") && location.reload());
  let lastAsked = "";
  document.addEventListener("keydown", (event) => {
    const { key, target } = event, enter = key === "Enter" && !event.shiftKey && !event.isComposing;
    if (target === composer()) {
      if (enter && target.value.trim()) lastAsked = target.value;
      if (key === "ArrowUp" && !target.value && lastAsked) {
        event.preventDefault();
        write(target, lastAsked);
      }
    }
    if (target === editor()) {
      if (enter) event.preventDefault();
      if (enter || key === "Escape") endEdit(enter ? "Submit" : "Cancel");
    } else if (key === "Escape" && !target.closest?.("[role=listbox], [aria-expanded=true]")) {
      running()?.click();
    }
    // A thought is a button, and buttons answer to the space bar too.
    if (key === " " && target.matches?.(PARTS.thought)) {
      event.preventDefault();
      target.click();
    }
  }, true);

  // For screen readers: a message is not named by its source, the examples are no list, a thought and the
  // sidebar say whether they are open. And each block reads in its own direction.
  const BLOCKS = "[role=log] :is(p, li, table, h1, h2, h3, h4, h5, h6):not([dir])";
  new MutationObserver(() => {
    if (find(`${PARTS.toggle}:not([aria-expanded])`)) sidebar(!phone.matches);
    for (const node of document.querySelectorAll(PARTS.source)) {
      const row = node.closest(PARTS.row), part = node.ariaLabel.startsWith("user") ? "question" : "answer";
      if (row) row.dataset.part = part;
      node.removeAttribute("aria-label");
    }
    for (const row of document.querySelectorAll(`${PARTS.row}:not([data-part])`)) row.dataset.part = "buttons";
    find("#chat [role=list]")?.setAttribute("role", "group");
    for (const block of document.querySelectorAll(BLOCKS)) block.dir = "auto";
    for (const title of document.querySelectorAll(PARTS.thought)) {
      const expanded = String(title.nextElementSibling !== null);
      if (title.ariaExpanded !== expanded) title.ariaExpanded = expanded;
    }
  }).observe(document, { subtree: true, childList: true, attributeFilter: ["aria-label", "class"] });
})();
