// Runs once, before Gradio draws the page. Small repairs that no setting of Gradio offers (6.31).
(() => {
  // On a phone the sidebar would cover the chat, so it starts closed there.
  if (matchMedia("(max-width: 767px)").matches) {
    for (const part of window.gradio_config?.components ?? []) {
      if (part.type === "sidebar") part.props.open = false;
    }
  }
  // A focused text box opens the keyboard of a phone or tablet, over half of the page.
  if (matchMedia("(max-width: 767px), (pointer: coarse)").matches) {
    for (const part of window.gradio_config?.components ?? []) {
      if (part.props?.autofocus) part.props.autofocus = false;
    }
  }

  // Each message is told its direction anew at each redraw, which styles all that is in it again.
  const direction = Object.getOwnPropertyDescriptor(HTMLElement.prototype, "dir");
  Object.defineProperty(HTMLElement.prototype, "dir", {
    ...direction,
    set(value) {
      if (value === "auto" || value !== this.dir) direction.set.call(this, value);
    },
  });

  // What is copied is what was written: the answer without thoughts and footer, without the signs
  // that keep it from being read as HTML (markdown_safety.py, render.py).
  const ANSWER = "<!--answer-->\n\n";
  const unescaped = (text) =>
    text
      .split(/(```[\s\S]*?```)/)
      .map((part, index) => (index % 2 ? part : part.replaceAll("&lt;", "<")))
      .join("");
  const asWritten = (text) => {
    const start = text.indexOf(ANSWER);
    let written = start < 0 ? text : text.slice(start + ANSWER.length);
    for (const own of ["footer", "error"]) {
      const end = written.lastIndexOf(`\n<div class="turn-${own}`);
      if (end >= 0) written = written.slice(0, end);
    }
    return (start < 0 ? written : unescaped(written))
      .replaceAll("\u2060[\u2060Image: ", "![")
      .replace(/\u2060\\\((.*?)\\\)\u2060/g, (_, tex) => `$${tex}$`)
      .replaceAll("{\\relax}", "")
      .replaceAll("\u2060", "");
  };
  if (navigator.clipboard) {
    const write = navigator.clipboard.writeText.bind(navigator.clipboard);
    navigator.clipboard.writeText = (text) => write(asWritten(text));
  }
  document.addEventListener("copy", (event) => {
    const field = document.activeElement;
    const selected = field?.tagName === "TEXTAREA"
      ? field.value.slice(field.selectionStart, field.selectionEnd)
      : String(getSelection());
    if (selected.includes("\u2060") || selected.includes(ANSWER)) {
      event.clipboardData.setData("text/plain", asWritten(selected));
      event.preventDefault();
    }
  });

  // An image for a program: a chosen or pasted file is read here, made small enough for a field's text
  // (programs/images.py) and put into it as a data URL, so that nothing is uploaded and no file is stored.
  const IMAGE_MAX_CHARS = 150_000;
  const asDataURL = async (file) => {
    const picture = await createImageBitmap(file);
    const canvas = document.createElement("canvas");
    for (let side = 1536; ; side *= 0.75) {
      const scale = Math.min(1, side / Math.max(picture.width, picture.height));
      canvas.width = Math.max(1, picture.width * scale);
      canvas.height = Math.max(1, picture.height * scale);
      const pen = canvas.getContext("2d");
      pen.fillStyle = "#fff"; // behind what is transparent, which JPEG would make black
      pen.fillRect(0, 0, canvas.width, canvas.height);
      pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
      const url = canvas.toDataURL("image/jpeg", 0.85);
      if (url.length <= IMAGE_MAX_CHARS) return url;
    }
  };
  const fill = async (field, file) => {
    const tell = (text) => field.setCustomValidity(text) || field.reportValidity();
    try {
      const url = await asDataURL(file);
      tell("");
      field.value = url;
      field.dispatchEvent(new Event("input", { bubbles: true }));
    } catch {
      tell("This file is no picture that the browser can read.");
    }
  };
  const showImage = (field) => {
    const filled = field.value.startsWith("data:image/");
    field.style.backgroundImage = filled ? `url("${field.value}")` : "";
    field.style.color = filled ? "transparent" : "";
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
  document.addEventListener("input", (event) => {
    if (imageField(event.target) === event.target) showImage(event.target);
  });
  document.addEventListener("paste", (event) => {
    const field = imageField(event.target);
    const file = Array.from(event.clipboardData?.files ?? []).find((one) => one.type.startsWith("image/"));
    if (!field || !file) return;
    event.preventDefault();
    fill(field, file);
  });

  // On a phone the sidebar lies over the chat; a tap beside it closes it.
  document.addEventListener("pointerdown", (event) => {
    const sidebar = document.querySelector("#sidebar.open");
    if (sidebar && matchMedia("(max-width: 767px)").matches && !event.target.closest("#sidebar, [role=listbox]")) {
      event.preventDefault();
      sidebar.querySelector(".toggle-button").click();
    }
  });

  // What Gradio draws is asked by its own names here and nowhere else.
  const composer = () => document.querySelector("#composer textarea");
  const running = () => document.querySelector("#composer .stop-button");
  const editing = () => document.querySelector("#chat .edit-textarea");
  // Submit and Cancel are the only buttons of a message that is being edited.
  const endEdit = (which) => {
    const row = editing()?.closest(".message-row");
    row?.nextElementSibling?.querySelectorAll("button")[which === "submit" ? 0 : 1]?.click();
  };
  const write = (field, text) => {
    field.value = text;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  };

  // A tab keeps its own chat and choices for a reload; a new tab starts with what this browser had last.
  // Where the browser keeps nothing for this site, as in another site's frame, a reload starts anew.
  const kept = {
    get(name) {
      try { return JSON.parse(sessionStorage.getItem(`dspy-demo-${name}`)); } catch { return null; }
    },
    set(name, value) {
      try { sessionStorage.setItem(`dspy-demo-${name}`, JSON.stringify(value)); } catch { /* full, or forbidden */ }
    },
  };
  const restored = new Set();
  // Called by the events of the page, see build.py.
  window.chatPage = {
    own(name, last) {
      restored.add(name);
      return kept.get(name) ?? last;
    },
    keep(name, value) {
      if (restored.has(name)) kept.set(name, value);
      return [];
    },
    chat(last) {
      return { ...(this.own("chat", { ...last, chat: "" })), lost: left.lost ? (left.draft ? "draft" : "chat") : "" };
    },
    typed(last, now) {
      const own = this.own("choices", last) ?? {};
      return Object.keys(now).map((name) => own[name] ?? now[name]);
    },
    // A base URL may hold a password, which is kept nowhere.
    choose(last, chosen) {
      const own = { ...chosen, base: chosen.base?.includes("@") ? "" : chosen.base };
      this.keep("choices", own);
      return [restored.has("choices") ? own : last];
    },
    // Names the turns that the page shows when it is clicked, which the server may have left behind.
    byId(given) {
      endEdit("cancel");
      const isChat = (value) => Array.isArray(value) && value[0]?.role;
      const bare = ({ role, metadata }) => ({ role, metadata, content: [{ type: "text", text: "" }], options: null });
      return given.map((value) => (isChat(value) ? value.map(bare) : value));
    },
    newChat() {
      endEdit("cancel");
      if (!matchMedia("(pointer: coarse)").matches) composer()?.focus();
      return [];
    },
    showQuestion() {
      if (running()) {
        const list = document.querySelector("#chat .bubble-wrap");
        requestAnimationFrame(() => list?.scrollTo(0, list.scrollHeight));
      }
      return [];
    },
  };

  // A draft outlives a reload, also the one by which Gradio comes back after the connection was lost.
  const left = kept.get("left") ?? {};
  for (const part of window.gradio_config?.components ?? []) {
    if (part.props?.elem_id === "composer" && left.draft) part.props.value = left.draft;
  }
  addEventListener("pagehide", () => {
    const toasts = [...document.querySelectorAll(".toast-body.error")];
    const lost = toasts.some((toast) => toast.textContent.includes("Connection"));
    kept.set("left", { draft: composer()?.value ?? "", lost });
  });

  document.addEventListener("click", (event) => {
    const action = event.target.closest?.("#notice [data-do]")?.dataset.do;
    if (action === "reload") location.reload();
    if (action === "show-versions") {
      const sidebar = document.querySelector("#sidebar");
      if (!sidebar.classList.contains("open")) sidebar.querySelector(".toggle-button").click();
      const fold = document.querySelector("#versions > button");
      if (!fold?.classList.contains("open")) fold?.click();
      fold?.scrollIntoView();
    }
  });

  // ArrowUp in an empty composer recalls the last question of this tab.
  let lastAsked = "";
  document.addEventListener("keydown", (event) => {
    const field = event.target;
    if (field !== composer()) return;
    if (event.key === "Enter" && !event.shiftKey && field.value.trim()) lastAsked = field.value;
    if (event.key === "ArrowUp" && !field.value && lastAsked) {
      event.preventDefault();
      write(field, lastAsked);
    }
  }, true);

  document.addEventListener("keydown", (event) => {
    // A thought is a button, and buttons answer to the space bar too.
    if (event.key === " " && event.target.matches?.(".thought-group > .title")) {
      event.preventDefault();
      event.target.click();
    }
    if (event.target === editing()) {
      if (event.key === "Escape") endEdit("cancel");
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        endEdit("submit");
      }
      return;
    }
    // Escape stops the running turn, unless it closes something else.
    if (event.key === "Escape" && !event.target.closest?.("[role=listbox], [aria-expanded=true]")) running()?.click();
  });

  // Gradio labels each message with its whole source text, which a screen reader would read instead of
  // it, calls the examples a list that has no items, and does not say whether a thought is open.
  const BLOCKS = ["p", "li", "table", "h1", "h2", "h3", "h4", "h5", "h6"]
    .map((name) => `.prose.chatbot ${name}:not([dir])`)
    .join();
  const describe = () => {
    for (const node of document.querySelectorAll("#chat [data-testid][aria-label*='s message: ']")) {
      node.removeAttribute("aria-label");
    }
    document.querySelector("#chat .examples[role=list]")?.setAttribute("role", "group");
    // Each block reads in its own direction: an answer may be Arabic with English code and a quotation.
    for (const block of document.querySelectorAll(BLOCKS)) block.dir = "auto";
    for (const title of document.querySelectorAll("#chat .thought-group > .title")) {
      const expanded = String(title.classList.contains("expanded"));
      if (title.getAttribute("aria-expanded") !== expanded) title.setAttribute("aria-expanded", expanded);
    }
  };
  new MutationObserver(describe).observe(document, {
    subtree: true,
    childList: true,
    attributeFilter: ["aria-label", "class"],
  });
})();
