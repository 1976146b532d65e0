"""Events to messages, without a browser."""

import re

import pytest

from dspy_demo.events import QUEUE_KEY, RETRY_KEY, FieldDelta, Status, TurnFailed, TurnFinished, Usage
from dspy_demo.ui.chat.render import ANSWER_MARK, messages
from dspy_demo.ui.chat.turn_view import TurnView

CALL = Status("calculator(2*3)", "pending", "c1")
RETRY = Status("No answer, retrying in 2 s (2/2)", "info", RETRY_KEY)
BROKE = TurnFailed("x", "Bad <format>: `a<b` is missing.", retryable=True, error_id="abc123")
TRAJECTORY = {"thought_0": "Hm.", "tool_name_0": "finish", "tool_args_0": {}, "observation_0": "Completed."}
WHOLE = TurnFinished({"reasoning": {"content": "Hm."}, "answer": "4"})
WITH_TOOLS = TurnFinished({"trajectory": TRAJECTORY, "answer": "6"})
JSON = '```json\n{\n  "thought_0": "Hm.",'
THOUGHT = ("Thought for 1.0\N{NO-BREAK SPACE}s", "done", "Hm.")


def thinks(text, step="predict", field="reasoning"):
    return FieldDelta(field, "reasoning", text, step)


def says(text, step="predict"):
    return FieldDelta("answer", "answer", text, step)


def after(*events):
    """The view after `events`, each a second after the one before."""
    view = TurnView("What is 2 + 2?", turn_id="t")
    for second, event in enumerate(events, 2):
        view = view.apply(event, float(second))
    return view


def text_of(message):
    return message["content"][0]["text"]


def thoughts(view):
    """(title, status, text) of each thought and tool line; those whose status is None are unfolded."""
    titled = [m for m in messages(view) if "title" in (m["metadata"] or {})]
    return [(m["metadata"]["title"], m["metadata"].get("status"), text_of(m)) for m in titled]


def answer(view):
    found = [text_of(m) for m in messages(view) if text_of(m).startswith(ANSWER_MARK)]
    assert len(found) <= 1
    return found[0].removeprefix(ANSWER_MARK) if found else ""


def plain(view):
    return "\n".join(map(text_of, messages(view)))


AT_ONCE = [thinks("a", "p", "answer"), thinks("x", "p#2", "answer"), thinks("b", "p", "answer")]
ROUNDS = [thinks("Hm.", "react", "next_thought"), thinks("b", "react#2", "next_thought")]
STEPS = [thinks("a", "draft"), thinks("b", "review.predict"), thinks("c", "review.predict")]
ANEW = [says("Sydney?", "draft"), thinks("No.", "review"), says("Canberra", "review")]
NAMED = '**Title**\n\nSpring\n\n**Tags**\n\n```json\n[\n  "a"\n]\n```\n\n**Final score**\n\n0.8'


@pytest.mark.parametrize(
    ("events", "drawn", "answered"),
    [
        ([], [("Thinking", "pending", "")], ""),
        ([thinks("Hm."), says("4")], [THOUGHT], "4"),
        # The outputs replace what was streamed, and come alone where nothing was.
        ([thinks("Hm"), says("4 "), TurnFinished({"reasoning": "Hm.", "answer": "four"})], [THOUGHT], "four"),
        ([WHOLE], [("Reasoning", "done", "Hm.")], "4"),
        ([TurnFinished({"answer": None})], [], ""),
        ([TurnFinished({"answer": "    x < 1"})], [], "    x < 1"),
        ([TurnFinished({"title": "Spring", "tags": ["a"], "final_score": 0.8})], [], NAMED),
        # A thought a step; rounds are numbered, steps may run at once, a later one may answer anew.
        (STEPS, [("Draft", "done", "a"), ("Review", "pending", "bc")], ""),
        (ROUNDS, [THOUGHT, ("Reasoning 2", "pending", "b")], ""),
        (AT_ONCE, [("P answer", "pending", "ab"), ("P answer 2", "pending", "x")], ""),
        (ANEW, [("Review", "done", "No."), ("Draft answer", "done", "Sydney?")], "Canberra"),
        # Tools that were not streamed, and those that were.
        ([WITH_TOOLS], [("Trajectory", "done", JSON)], "6"),
        ([ROUNDS[0], says("6"), WITH_TOOLS], [THOUGHT], "6"),
    ],
)
def test_what_is_drawn(events, drawn, answered):
    view = after(*events)
    for (*found, text), (*wanted, begins) in zip(thoughts(view), drawn, strict=True):
        assert (found, text[: len(begins)]) == (wanted, begins)
    assert answer(view) == answered
    if not view.running:
        assert view.apply(says("!"), 9.0) is view.stopped(9.0) is view


def test_a_tool_call_is_one_line_under_the_thought_that_made_it():
    view = after(thinks("Let me see."), FieldDelta("args", "tool", '{"a": 1}'), CALL)
    thought, line = (message["metadata"] for message in messages(view)[1:])
    assert (line["parent_id"], line["title"]) == (thought["id"], "calculator(2&#42;3)")
    assert (line["status"], thought["status"]) == ("pending", "pending")
    assert '{"a": 1}' not in plain(view)
    view = view.apply(Status("calculator(2*3) → 6" + "x" * 400, "done", "c1"), 6.0).apply(says("6"), 7.0)
    thought, line = (message["metadata"] for message in messages(view)[1:3])
    assert (line["status"], line["duration"], thought["log"]) == ("done", 2.0, "1 tool call")
    assert len(line["title"]) < 200
    assert "x" * 400 in plain(view)


def test_other_status_lines_are_quiet_and_end_in_the_past_tense():
    waited = Status("Waited for 3 s.", "done", QUEUE_KEY)
    for events, line in (
        ([RETRY, RETRY, says("4")], "Answered after 2 retries"),
        ([RETRY, BROKE], "Gave up after 1 retry"),
        ([waited, thinks("Hm")], waited.text),
    ):
        assert re.findall('<div class="turn-status">(.*?)<', plain(after(*events))) == [line]


def test_a_bad_end_says_why_keeps_what_came_and_leaves_unfolded_what_was_being_written():
    begun = after(says("Fo"), thinks("Hm."), CALL)
    for view, said in (
        (begun.stopped(5.0), ">Stopped<"),
        (begun.apply(BROKE, 5.0), "Bad &lt;format&gt;: <code>a&lt;b</code> is"),
        (begun.apply(BROKE, 5.0), "Error abc123<"),
        (begun.apply(TurnFinished({}, finish_reason="length"), 5.0), "at the token limit"),
        (begun.apply(TurnFinished({}, finish_reason="content_filter"), 5.0), "filter cut this reply"),
    ):
        assert said in plain(view)
        assert (answer(view), [status for _, status, _ in thoughts(view)]) == ("Fo", [None, "done"])


def test_the_footer_says_only_what_is_known():
    end = TurnFinished({"answer": "4"}, Usage(1200, 34, 0.00012, cached=True), 0.21, 2.04)
    times = ["first token 0.21\N{NO-BREAK SPACE}s", "total 2.0\N{NO-BREAK SPACE}s"]
    known = ["1,200 tokens in, 34 out", *times, "&#36;0.00012", "cached"]
    waited = after(Status("1st", "pending", QUEUE_KEY), Status("Waited.", "done", QUEUE_KEY)).stopped(6.0)
    stopped = ["Stopped", "total 3.0\N{NO-BREAK SPACE}s"]  # the wait in the queue is no part of it
    for view, parts in ((after(end), known), (waited, stopped)):
        assert re.findall("<span.*?>(.*?)</span>", text_of(messages(view)[-1])) == parts
