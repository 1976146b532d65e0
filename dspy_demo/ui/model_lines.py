"""The models that can be downloaded, as HTML: what each is, how far it has come, and what there is to do."""

from __future__ import annotations

import html
from collections.abc import Sequence

from dspy_demo.lm.local.download import DownloadState, Progress, size_text
from dspy_demo.lm.local.files import PREFIX
from dspy_demo.lm.local.runtime import INSTALL_LINE

RUNTIME = (
    '<div class="m-runtime"><p class="quiet">The runtime for these models is not installed. To use one, run '
    "this where the app is installed:</p>"
    f'<div class="v-command"><pre tabindex="0">{INSTALL_LINE}</pre></div></div>'
)


def models_html(
    states: Sequence[DownloadState], *, runs: bool, hub_url: str, picked: str = "", trouble: str = ""
) -> str:
    """The whole list.

    Args:
        runs: Whether the runtime is installed; without it there is a sentence that says how to get it.
        picked: The model string of the picker.
        trouble: Why the last action did not work.
    """
    parts = [_row(state, runs, hub_url, picked) for state in states]
    if not runs:
        parts.append(RUNTIME)
    if trouble:
        parts.append(_wrong(trouble))
    return f'<div class="models">{"".join(parts)}</div>'


def spoken_models(states: Sequence[DownloadState]) -> str:
    """What a screen reader says: it changes with the state of a model, not with each piece that arrives."""
    words = []
    for state in states:
        match state.phase:
            case "running":
                words.append(f"{state.model.title} is being downloaded.")
            case "here":
                words.append(f"{state.model.title} is on this machine.")
            case "partial" | "absent" if state.reason:
                words.append(f"{state.model.title}: {state.reason}")
    return f'<span role="status">{html.escape(" ".join(words))}</span>'


def _row(state: DownloadState, runs: bool, hub_url: str, picked: str) -> str:
    model = state.model
    match state.phase:
        case "running":
            assert state.progress is not None
            actions, more = _action("cancel", "Cancel", state), _bar(state) + _words(state.progress)
        case "partial":
            assert state.progress is not None
            actions = _action("download", "Resume", state)
            stopped = _said(f"Stopped at {state.progress.words[0]}")
            discard = f'<span class="s-actions">{_action("discard", "Discard", state)}</span>'
            more = (
                _bar(state) + f'<div class="s-line m-stopped">{stopped}{discard}</div>' + _wrong(state.reason)
            )
        case "here":
            is_picked = picked == PREFIX + model.name
            actions = _action("use", "Use", state) if runs and not is_picked else ""
            word = "Picked above" if is_picked else "On this machine"
            more = f'<p class="quiet m-here"><i class="dot ready"></i>{word}</p>'
        case _:
            actions, more = _action("download", "Download", state), _wrong(state.reason)
    source = f"{hub_url.rstrip('/')}/{model.repo}"
    about = [
        size_text(model.size_bytes),
        model.licence,
        f'<a href="{html.escape(source)}" '
        f'target="_blank" rel="noopener" aria-label="Source of {html.escape(model.title)}">Source</a>',
    ]
    return (
        f'<div class="model"><div class="s-line"><b class="s-name">{html.escape(model.title)}</b>'
        f'<span class="s-actions">{actions}</span></div>'
        f'<p class="quiet">{" · ".join(about)}</p>'
        f'<p class="quiet">{html.escape(model.note)}</p>{more}</div>'
    )


def _bar(state: DownloadState) -> str:
    assert state.progress is not None
    title, percent = html.escape(state.model.title), state.progress.percent
    return (
        f'<progress class="{state.phase}" max="100" value="{percent}" aria-label="Download of {title}">'
        f"{percent} %</progress>"
    )


def _words(progress: Progress) -> str:
    match progress.phase:
        case "connecting":
            return _said("Connecting…")
        case "checking":
            return _said("Comparing the checksum…")
        case _:
            return _said(" · ".join(progress.words))


def _said(text: str) -> str:
    return f'<p class="quiet m-progress">{html.escape(text)}</p>'


def _wrong(text: str) -> str:
    return f'<p class="wrong" role="alert">{html.escape(text)}</p>' if text else ""


def _action(do: str, label: str, state: DownloadState) -> str:
    name, title = html.escape(state.model.name), html.escape(state.model.title)
    return (
        f'<button type="button" class="b" data-do="{do}" data-name="{name}" aria-label="{label} {title}">'
        f"{label}</button>"
    )
