"""The title of a thought: from the step and the field that it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from dspy_demo.programs.spec import REASONING_FIELDS
from dspy_demo.ui.chat.turn_view import Thought

#: Names that say nothing to a reader: attributes of `dspy.ChainOfThought`, `dspy.ReAct` and the like.
_PLUMBING = frozenset({"", "self", "predict", "react", "program", "module", "prog", "cot"})
_KNOWN_STEPS = {"extract": "Conclusion"}


def thought_titles(thoughts: Iterable[Thought]) -> list[str]:
    """One title for each; a title that comes again gets a number."""
    seen: Counter[str] = Counter()
    titles = []
    for thought in thoughts:
        title = _title(thought)
        seen[title] += 1
        titles.append(title if seen[title] == 1 else f"{title} {seen[title]}")
    return titles


def _title(thought: Thought) -> str:
    path = thought.step.split("#")[0].split(".")
    step = next((part for part in reversed(path) if part not in _PLUMBING), "")
    label = _KNOWN_STEPS.get(step) or in_words(step)
    if thought.field in REASONING_FIELDS:
        return label or "Reasoning"
    return in_words(f"{label} {thought.field}".strip())


def in_words(name: str) -> str:
    """A field or step as a reader would write it: ``final_answer`` is “Final answer”."""
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]
