"""The state of the model server as HTML: a dot, a word, and what there is to do."""

from __future__ import annotations

import html
from dataclasses import dataclass

from dspy_demo.backends.served import ServerInfo
from dspy_demo.serving.processes import ServerState
from dspy_demo.ui.ages import lasting
from dspy_demo.ui.version_rows import title_of

NOTHING = "No version is served. Choose Serve at a version below."
NOTHING_FOR_GUESTS = "No version is served at the moment."
LOG_LINES = 12
PLAIN = "A plain MLflow server: the whole answer comes at once, without live tokens."

_WORDS = {
    "hung": "Not answering",
    "starting": "Starting",
    "ready": "Ready",
    "stopping": "Stopping",
    "failed": "Failed",
    "stopped": "Stopped",
}


@dataclass(frozen=True, slots=True)
class Connected:
    """A server at a typed address, which was asked what it is."""

    url: str
    info: ServerInfo

    @property
    def title(self) -> str:
        return title_of(self.info.version) if self.info.version else self.url


def server_html(
    state: ServerState, connected: Connected | None = None, trouble: str = "", *, owner: bool = True
) -> str:
    """All that the backend section says.

    Args:
        connected: Another server that this visitor uses in place of the app's own.
        trouble: Why the last action did not work.
        owner: Whether this visitor may start and stop; else there is only something to see.
    """
    parts = [_connected(connected)] if connected else []
    if state.phase != "none":
        parts.append(_server(state, current=True))
    elif not connected:
        parts.append(f'<p class="quiet">{NOTHING if owner else NOTHING_FOR_GUESTS}</p>')
    if state.next is not None:
        parts.append(_server(state.next, current=False))
    if trouble:
        parts.append(f'<p class="wrong" role="alert">{html.escape(trouble)}</p>')
    look = "servers" if owner else "servers watched"
    return f'<div class="{look}">{"".join(parts)}</div>'


def spoken_html(state: ServerState, connected: Connected | None = None) -> str:
    """What a screen reader says: it changes with the state, not with the time."""
    words = [f"Connected to {connected.title}."] if connected else []
    for server in (state, state.next):
        if server is not None and server.phase != "none":
            word = _WORDS.get(server.phase, server.phase).lower()
            words.append(f"Model server {title_of(server.version)}: {word}. {server.reason}".strip())
    return f'<span role="status">{html.escape(" ".join(words))}</span>'


def _server(state: ServerState, *, current: bool) -> str:
    uri = state.version
    match state.phase:
        case "starting":
            more, actions = _progress(state) + _log(state), _action("stop", "Cancel", uri)
        case "hung":
            more = _wrong("Its process runs, but it answers nothing any more.") + _log(state)
            actions = _action("restart", "Restart", uri) + _action("stop", "Stop", uri)
        case "ready":
            more, actions = _address(state), _action("stop", "Stop", uri)
        case "failed":
            more = _wrong(state.reason) + _log(state)
            if current:
                actions = _action("restart", "Restart", uri)
            else:
                actions = _action("retry", "Try again", uri) + _action("dismiss", "Dismiss", uri)
        case "stopping":
            more, actions = "", ""
        case _:
            more, actions = "", _action("restart", "Start", uri)
    return _block(state.phase, _WORDS.get(state.phase, "Stopped"), title_of(uri), actions, more)


def _connected(connected: Connected) -> str:
    info = connected.info
    notes = [note for note in (PLAIN if info.kind == "plain" else "", info.reason) if note]
    about = "".join(f'<p class="quiet">{html.escape(note)}</p>' for note in notes)
    phase, word = ("ready", "Connected") if info.ready else ("failed", "Not ready")
    more = f'<span class="s-about">{html.escape(connected.url)}</span>{about}'
    return _block(phase, word, connected.title, _action("disconnect", "Leave", ""), more)


def _block(phase: str, word: str, title: str, actions: str, more: str) -> str:
    """A line with a dot, a word, a name and what can be done; details below."""
    return (
        f'<div class="server"><div class="s-line"><i class="dot {phase}"></i><b>{word}</b>'
        f'<span class="s-name">{html.escape(title)}</span>'
        f'<span class="s-actions">{actions}</span></div>{more}</div>'
    )


def _progress(state: ServerState) -> str:
    return f'<progress aria-label="Starting {html.escape(title_of(state.version))}"></progress>'


def _address(state: ServerState) -> str:
    url = html.escape(state.url or "")
    return (
        f'<span class="s-about"><a href="{url}/model" target="_blank" rel="noopener noreferrer">'
        f"{url.removeprefix('http://')}</a><span>up {lasting(state.uptime_s)}</span></span>"
        f"{_wrong(state.warning)}"
    )


def _wrong(text: str) -> str:
    return f'<p class="wrong">{html.escape(text)}</p>' if text else ""


def _log(state: ServerState) -> str:
    if not state.log_tail.strip():
        return ""
    tail = html.escape("\n".join(state.log_tail.splitlines()[-LOG_LINES:]))
    key = html.escape(f"log {state.version}")
    return (
        f'<details class="s-log" data-key="{key}"><summary>Log</summary>'
        f'<pre tabindex="0">{tail}</pre></details>'
    )


def _action(do: str, label: str, uri: str) -> str:
    return f'<button type="button" class="b" data-do="{do}" data-uri="{html.escape(uri)}">{label}</button>'
