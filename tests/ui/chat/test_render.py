"""Events to messages, without a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import pytest

from dspy_demo.events import (
    QUEUE_KEY,
    RETRY_KEY,
    Event,
    FieldDelta,
    Status,
    TurnFailed,
    TurnFinished,
    TurnStarted,
    Usage,
)
from dspy_demo.ui.chat.render import ANSWER_MARK, footer_parts, messages, money
from dspy_demo.ui.chat.text import as_html
from dspy_demo.ui.chat.turn_view import StatusLine, TurnView

STARTED = TurnStarted("local", "openai/gpt-4o-mini")


def thinks(text: str, step: str = "predict", field: str = "reasoning") -> FieldDelta:
    return FieldDelta(field, "reasoning", text, step)


def says(text: str, step: str = "predict", field: str = "answer") -> FieldDelta:
    return FieldDelta(field, "answer", text, step)


def after(events: Iterable[Event], **details: Any) -> TurnView:
    """The view after `events`, each a second after the one before."""
    view = TurnView.start("What is 2 + 2?", now_s=0.0, turn_id="t", **details)
    for second, event in enumerate(events, 1):
        view = view.apply(event, float(second))
    return view


def text_of(message: dict[str, Any]) -> str:
    return str(message["content"][0]["text"])


def thoughts(view: TurnView) -> list[tuple[str, str | None, str]]:
    """(title, status, text) of each thought and tool line; those whose status is None are unfolded."""
    return [
        (m["metadata"]["title"], m["metadata"]["status"], text_of(m))
        for m in messages(view)
        if "title" in (m["metadata"] or {})
    ]


def answer(view: TurnView) -> str:
    found = [text_of(m) for m in messages(view) if text_of(m).startswith(ANSWER_MARK)]
    assert len(found) <= 1
    return found[0].removeprefix(ANSWER_MARK) if found else ""


def plain(view: TurnView) -> str:
    return "\n".join(text_of(m) for m in messages(view))


# The order of an ordinary turn


def test_a_turn_that_has_just_begun_shows_that_it_works() -> None:
    assert thoughts(after([])) == [("Thinking", "pending", "")]
    assert thoughts(after([STARTED])) == [("Thinking", "pending", "")]


def test_reasoning_streams_into_an_open_thought_and_closes_when_the_answer_begins() -> None:
    view = after([STARTED, thinks("Two "), thinks("and two.")])
    assert thoughts(view) == [("Reasoning", "pending", "Two and two.")]
    view = view.apply(says("4"), 5.0)
    assert thoughts(view) == [("Reasoning", "done", "Two and two.")]
    assert messages(view)[1]["metadata"]["duration"] == 3.0
    assert answer(view) == "4"


def test_a_finished_turn_has_question_thought_answer_and_footer() -> None:
    view = after(
        [STARTED, thinks("Hm."), says("4"), TurnFinished({"reasoning": "Hm.", "answer": "4"}, elapsed_s=1.25)]
    )
    assert [m["role"] for m in messages(view)] == ["user", "assistant", "assistant", "assistant"]
    assert "total 1.2\N{NO-BREAK SPACE}s" in text_of(messages(view)[-1])


def test_messages_are_new_objects_each_time_and_valid_for_the_wire() -> None:
    view = after([STARTED, thinks("Hm.")])
    first, second = messages(view), messages(view)
    assert first == second
    assert first[1] is not second[1]
    assert all(set(m) == {"role", "metadata", "content", "options"} for m in first)
    json.dumps(first)


def test_the_outputs_replace_what_was_accumulated() -> None:
    view = after([STARTED, thinks("Hm"), says("4 "), TurnFinished({"reasoning": "Hm.", "answer": "four"})])
    assert answer(view) == "four"
    assert thoughts(view) == [("Reasoning", "done", "Hm.")]


def test_a_cache_hit_without_a_delta_shows_reasoning_and_answer() -> None:
    view = after([STARTED, TurnFinished({"reasoning": "Hm.", "answer": "4"}, Usage(10, 5, cached=True))])
    assert thoughts(view) == [("Reasoning", "done", "Hm.")]
    assert "duration" not in messages(view)[1]["metadata"]
    assert answer(view) == "4"
    assert "cached" in plain(view)


def test_reasoning_as_an_object_shows_its_content() -> None:
    view = after([STARTED, TurnFinished({"reasoning": {"content": "Hm."}, "answer": "4"})])
    assert thoughts(view) == [("Reasoning", "done", "Hm.")]


def test_an_answer_without_reasoning_has_no_thought() -> None:
    view = after([STARTED, says("4"), TurnFinished({"answer": "4"})])
    assert thoughts(view) == []


def test_empty_deltas_change_nothing() -> None:
    assert after([STARTED, thinks(""), says("")]) == after([STARTED])


def test_nothing_changes_a_turn_that_has_ended() -> None:
    done = after([STARTED, says("4"), TurnFinished({"answer": "4"})])
    assert done.apply(says("!"), 9.0) is done
    assert done.stopped(9.0) is done


# Several steps and fields


def test_each_step_has_a_thought_of_its_own() -> None:
    view = after(
        [STARTED, thinks("a", "draft"), thinks("b", "review.predict"), thinks("c", "review.predict")]
    )
    assert thoughts(view) == [("Draft", "done", "a"), ("Review", "pending", "bc")]


def test_rounds_of_the_same_step_are_numbered() -> None:
    view = after([STARTED, thinks("a", "react", "next_thought"), thinks("b", "react#2", "next_thought")])
    assert [title for title, _, _ in thoughts(view)] == ["Reasoning", "Reasoning 2"]


def test_steps_that_run_at_once_have_one_thought_each() -> None:
    parts = [
        thinks(text, step, "answer") for text, step in [("a", "p"), ("x", "p#2"), ("b", "p"), ("y", "p#2")]
    ]
    view = after([STARTED, *parts])
    assert [(status, text) for _, status, text in thoughts(view)] == [("pending", "ab"), ("pending", "xy")]
    done = view.apply(TurnFinished({"answer": "ab / xy"}), 9.0)
    assert [(status, text) for _, status, text in thoughts(done)] == [("done", "ab"), ("done", "xy")]
    assert answer(done) == "ab / xy"


def test_an_answer_of_a_later_step_replaces_the_earlier_which_stays_as_a_thought() -> None:
    view = after([STARTED, says("Sydney?", "draft"), thinks("No.", "review"), says("Canberra", "review")])
    assert answer(view) == "Canberra"
    assert thoughts(view) == [("Review", "done", "No."), ("Draft answer", "done", "Sydney?")]
    assert view.answer_text == "Canberra"


def test_several_outputs_are_shown_by_their_names() -> None:
    view = after([STARTED, TurnFinished({"title": "Spring", "tags": ["a", "b"], "final_score": 0.8})])
    assert answer(view) == (
        '**Title**\n\nSpring\n\n**Tags**\n\n```json\n[\n  "a",\n  "b"\n]\n```\n\n**Final score**\n\n0.8'
    )


def test_labels_do_not_jump_in_when_the_second_field_starts() -> None:
    view = after([STARTED, says("Spring", field="title")], expected=("title", "tags"))
    assert answer(view).startswith("**Title**")


@pytest.mark.parametrize("expected", [(), ("critique",)])
def test_an_output_that_streamed_as_reasoning_is_still_an_answer(expected: tuple[str, ...]) -> None:
    view = after([STARTED, thinks("x", field="critique"), TurnFinished({"critique": "x"})], expected=expected)
    assert answer(view) == "x"


@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_output_draws_no_answer(value: Any) -> None:
    assert answer(after([STARTED, TurnFinished({"answer": value})])) == ""


# Tools and statuses


CALL = Status("calculator(2*3)", "pending", "c1")


def test_a_tool_call_is_nested_under_the_thought_that_made_it() -> None:
    view = after([STARTED, thinks("Let me see."), FieldDelta("args", "tool", '{"a": 1}'), CALL])
    thought, line = messages(view)[1:]
    assert line["metadata"]["parent_id"] == thought["metadata"]["id"]
    assert (line["metadata"]["status"], thought["metadata"]["status"]) == ("pending", "pending")
    assert line["metadata"]["title"] == "calculator(2&#42;3)"
    assert '{"a": 1}' not in plain(view)


def test_a_tool_call_changes_its_own_line() -> None:
    view = after([STARTED, thinks("Hm."), CALL, Status("calculator(2*3) → 6", "done", "c1"), says("6")])
    assert [status for _, status, _ in thoughts(view)] == ["done", "done"]
    assert messages(view)[2]["metadata"]["duration"] == 1.0
    assert messages(view)[1]["metadata"]["log"] == "1 tool call"


def test_a_failed_tool_says_so() -> None:
    view = after([STARTED, thinks("Hm."), CALL, Status("no", "failed", "c1")])
    assert messages(view)[2]["metadata"]["log"] == "failed"


def test_a_tool_before_any_thought_stands_alone() -> None:
    (line,) = messages(after([STARTED, CALL]))[1:]
    assert "parent_id" not in line["metadata"]


RETRY = Status("No answer, retrying in 2 s (2/2)", "info", RETRY_KEY)


@pytest.mark.parametrize(
    ("events", "line"),
    [
        ([RETRY], "No answer, retrying in 2 s (2/2)"),
        ([RETRY, thinks("Hm.")], "Answered after 1 retry"),
        ([RETRY, RETRY, TurnFinished({"answer": "4"})], "Answered after 2 retries"),
        ([RETRY, RETRY, TurnFailed("x", "It broke.", retryable=True)], "Gave up after 2 retries"),
    ],
)
def test_a_retry_is_a_quiet_line_that_ends_in_the_past_tense(events: list[Event], line: str) -> None:
    view = after([STARTED, *events])
    assert text_of(messages(view)[1]) == f'<div class="turn-status">{line}</div>'
    assert messages(view)[1]["metadata"] is None


def test_the_retries_of_two_steps_are_counted_apart() -> None:
    view = after([STARTED, RETRY, thinks("Hm.", "draft"), RETRY, RETRY, says("4")])
    lines = re.findall('turn-status">(.*?)<', plain(view))
    assert lines == ["Answered after 1 retry", "Answered after 2 retries"]


TRAJECTORY = {
    "thought_0": "I need a calculator.",
    "tool_name_0": "calculator",
    "tool_args_0": {"expression": "2*3"},
    "observation_0": 6,
    "thought_1": "Done.",
    "tool_name_1": "finish",
    "tool_args_1": {},
    "observation_1": "Completed.",
}


def test_tools_that_were_not_seen_live_are_read_from_the_trajectory() -> None:
    view = after([STARTED, TurnFinished({"trajectory": TRAJECTORY, "reasoning": "So.", "answer": "6"})])
    assert [title for title, _, _ in thoughts(view)] == [
        "Trajectory",
        "Reasoning",
    ]
    assert answer(view) == "6"


def test_a_trajectory_adds_nothing_to_tools_seen_live() -> None:
    live = [STARTED, thinks("Hm.", "react", "next_thought"), CALL, Status("6", "done", "c1")]
    view = after([*live, TurnFinished({"trajectory": TRAJECTORY, "answer": "6"})])
    assert len(thoughts(view)) == 2


def test_thoughts_seen_live_are_not_read_from_the_trajectory_again() -> None:
    """A model that calls no tool: there is no tool line to tell by."""
    live = [STARTED, thinks("Done.", "react", "next_thought"), thinks("So.", "extract.predict"), says("6")]
    trajectory = {
        "thought_0": "Done.",
        "tool_name_0": "finish",
        "tool_args_0": {},
        "observation_0": "Completed.",
    }
    view = after([*live, TurnFinished({"trajectory": trajectory, "reasoning": "So.", "answer": "6"})])
    assert [title for title, _, _ in thoughts(view)] == ["Reasoning", "Conclusion"]


def test_a_long_tool_line_is_cut_in_the_title_only() -> None:
    long = "read(" + "x" * 400 + ")"
    line = messages(after([STARTED, Status(long, "done", "c1")]))[1]
    assert len(line["metadata"]["title"]) < 200
    assert text_of(line) == long


# Endings


def failed(**details: Any) -> TurnFailed:
    return TurnFailed(**{"code": "x", "public_message": "It <broke>.", "retryable": True, **details})


def test_a_failure_keeps_what_was_streamed_and_says_what_to_do() -> None:
    view = after([STARTED, thinks("Hm."), says("Fo"), failed(error_id="abc123")])
    assert thoughts(view) == [("Reasoning", "done", "Hm.")]
    assert answer(view) == "Fo"
    assert '<div>It &lt;broke&gt;.</div><div class="turn-error-note">Error abc123</div>' in plain(view)


def test_a_field_that_an_error_names_is_set_as_code() -> None:
    view = after([failed(public_message="The model ignored the output format: `a<b` is missing.")])
    assert "<code>a&lt;b</code> is missing." in plain(view)


@pytest.mark.parametrize(
    ("details", "says_so"),
    [
        ({"finish_reason": "stop"}, ""),
        ({"finish_reason": "length"}, "Raise Max tokens"),
        ({"finish_reason": "length", "guest": True}, "limit for guests"),
        ({"finish_reason": "length", "backend": "served"}, "this version's limit"),
        ({"finish_reason": "content_filter"}, "provider's filter cut this reply"),
    ],
)
def test_a_reply_that_was_cut_says_why_and_keeps_what_came(details: dict[str, Any], says_so: str) -> None:
    started = TurnStarted(details.pop("backend", "local"), "openai/m")
    finished = TurnFinished({"title": "Spring"}, finish_reason=details.pop("finish_reason"))
    view = after([started, says("Spring", field="title"), says("It is", field="text"), finished], **details)
    notices = re.findall('turn-error cut" role="status">(.*?)<', plain(view))
    assert [as_html(says_so) in notice for notice in notices] == [True] * bool(says_so)
    assert ("It is" in answer(view)) == bool(says_so)
    assert text_of(messages(view)[-1]).startswith('<div class="turn-footer">')


@pytest.mark.parametrize("end", [failed(), TurnFinished({"reasoning": "Hm."}, finish_reason="length"), None])
def test_a_thought_that_was_being_written_stays_unfolded(end: Event | None) -> None:
    view = after([STARTED, thinks("Hm.")])
    view = view.apply(end, 4.0) if end else view.stopped(4.0)
    assert thoughts(view) == [("Reasoning", None, "Hm.")]
    assert messages(view)[1]["metadata"]["duration"] == 2.0


def test_a_failure_before_the_start_is_drawn() -> None:
    assert "turn-error" in plain(after([failed()]))


def test_a_stopped_turn_keeps_its_text_and_nothing_of_it_runs() -> None:
    view = after([STARTED, thinks("Hm."), CALL]).stopped(9.0)
    assert [status for _, status, _ in thoughts(view)] == [None, "done"]
    assert "Stopped" in text_of(messages(view)[-1])
    assert view.elapsed_s == 9.0


def test_a_turn_stopped_before_any_text_still_has_a_footer() -> None:
    assert [m["role"] for m in messages(after([]).stopped(1.0))] == ["user", "assistant"]


def test_the_footer_says_only_what_is_known() -> None:
    usage = Usage(1200, 34, 0.00012)
    view = after([STARTED, TurnFinished({"answer": "4"}, usage, first_delta_s=0.21, elapsed_s=2.04)])
    assert footer_parts(view) == [
        "Local",
        "openai/gpt-4o-mini",
        "1,200 tokens in, 34 out",
        "first token 0.21\N{NO-BREAK SPACE}s",
        "total 2.0\N{NO-BREAK SPACE}s",
        "$0.00012",
    ]
    assert footer_parts(after([]).stopped(1.0)) == ["total 1.0\N{NO-BREAK SPACE}s"]


@pytest.mark.parametrize(
    ("usd", "shown"), [(1.5, "$1.50"), (0.0123, "$0.01"), (0.0001, "$0.0001"), (1e-7, "under $0.00001")]
)
def test_money(usd: float, shown: str) -> None:
    assert money(usd) == shown


# Text


def test_markup_from_model_and_visitor_is_text() -> None:
    view = TurnView.start("<b>hi</b>", now_s=0.0)
    for event in (
        TurnStarted("local", "<i>model</i>"),
        thinks("<script>x</script>"),
        Status("<u>tool</u>", "done", "k"),
        says("<think>y</think>"),
    ):
        view = view.apply(event, 1.0)
    shown = plain(view.stopped(2.0)) + "".join(t for t, _, _ in thoughts(view))
    for tag in ("<b>", "<script>", "<think>", "<i>", "<u>"):
        assert tag not in shown.replace("\\<", "&lt;")


def test_code_with_leading_spaces_is_unchanged() -> None:
    code = "```python\n    def f(x):\n        return x < 3\n```"
    view = after([STARTED, says(code), TurnFinished({"answer": code})])
    assert answer(view) == code


def test_text_that_begins_with_spaces_keeps_them() -> None:
    assert answer(after([STARTED, TurnFinished({"answer": "    x = 1"})])) == "    x = 1"


def test_the_forms_values_stand_under_the_question() -> None:
    view = after([STARTED], inputs=(("Tone", "<calm>"), ("Words", 8)))
    assert text_of(messages(view)[1]).count("<span>") == 2
    assert "&lt;calm&gt;" in text_of(messages(view)[1])
    assert thoughts(view)[-1][0] == "Thinking"


def test_the_place_in_line_is_one_line_that_changes() -> None:
    waiting = [Status(f"You are {place} in line.", "pending", QUEUE_KEY) for place in ("2nd", "1st")]
    assert thoughts(after(waiting)) == [("You are 1st in line.", "pending", "")]
    begun = after([*waiting, Status("Waited in line for 3 s.", "done", QUEUE_KEY), STARTED, thinks("Hm")])
    assert text_of(messages(begun)[1]) == '<div class="turn-status">Waited in line for 3 s.</div>'
    assert [title for title, _, _ in thoughts(begun)] == ["Reasoning"]


def test_the_wait_in_line_is_not_part_of_the_turns_time() -> None:
    line = [Status("You are 1st in line.", "pending", QUEUE_KEY), Status("Waited.", "done", QUEUE_KEY)]
    view = after([*line, STARTED, thinks("Hm")])  # seconds 1 to 4
    assert view.first_delta_s == 2.0
    assert view.stopped(5.0).elapsed_s == 3.0


def test_who_gave_up_waiting_sees_why() -> None:
    view = after(
        [
            Status("You are 1st in line.", "pending", QUEUE_KEY),
            STARTED,
            TurnFailed("waited_too_long", "No place became free.", retryable=True, http_status=429),
        ]
    )
    assert [part.state for part in view.work if isinstance(part, StatusLine)] == ["failed"]
    assert "No place became free." in plain(view)


def test_tool_calls_of_a_plain_server_are_shown_also_after_a_wait_in_line() -> None:
    line = Status("Waited in line for 3 s.", "done", QUEUE_KEY)
    last = TurnFinished({"trajectory": TRAJECTORY, "reasoning": "So.", "answer": "6"})
    assert thoughts(after([line, STARTED, last])) == thoughts(after([STARTED, last]))
