// Runs once for each gr.HTML with buttons, with its `element`, `trigger` and `watch`. See components.py.
const open = new Set();

// A redraw writes the attributes of the server's HTML over what the reader opened.
const restore = () => {
  for (const fold of element.querySelectorAll("details[data-key]")) fold.open = open.has(fold.dataset.key);
  for (const form of element.querySelectorAll("form[data-uri]")) {
    if (form.shownFor !== form.dataset.uri) form.reset();
    form.shownFor = form.dataset.uri;
  }
};

element.addEventListener("toggle", (event) => {
  const key = event.target.dataset?.key;
  if (key) event.target.open ? open.add(key) : open.delete(key);
}, true);

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || button.disabled) return;
  button.closest("#menu")?.hidePopover(); // it would stay open behind the dialog that a button of it opens
  const { copy, open: shown } = button.dataset;
  if (copy) {
    navigator.clipboard?.writeText(copy).then(() => {
      const label = button.textContent;
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = label; }, 1500);
    });
  } else if (shown) {
    show(shown);
  } else if (button.dataset.do) {
    trigger("click", { ...button.dataset });
  }
});

element.addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.target;
  if (form.dataset.closes) open.delete(form.dataset.closes);
  trigger("click", { ...form.dataset, ...Object.fromEntries(new FormData(form)) });
});

// Shows the section of the sidebar that a button speaks of.
const show = (name) => {
  const place = document.querySelector(`#section-${name}`);
  chatPage.sidebar(true);
  const fold = place.querySelector("#versions > button");
  if (fold?.nextElementSibling && !fold.nextElementSibling.checkVisibility()) fold.click();
  place.scrollIntoView({ block: "start" });
  place.querySelector("input")?.focus({ preventScroll: true });
};

watch("value", restore);
restore();
