"""The table of adapters; and its parsers against DSPy's own, for any text and any chunking."""

import json
import pickle
import time
from contextlib import suppress

import dspy
import pytest
from dspy.adapters.chat_adapter import field_header_pattern
from dspy.utils.exceptions import AdapterParseError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dspy_demo.adapters import ADAPTERS, Parser, Piece, adapter_for, adapter_name

FIELDS = ("reasoning", "answer")
KINDS = pytest.mark.parametrize("kind", ADAPTERS)
A = "[[ ## answer ## ]]"
OPENINGS = {"chat": f"{A}\n", "json": '{"answer": "', "xml": "<answer>\n"}


#: Defaults, so that `parse` also speaks about replies that lack a field.
OUTPUTS = {name: (str, dspy.OutputField(default="")) for name in FIELDS}
TWO_TEXTS = dspy.Signature({"question": (str, dspy.InputField()), **OUTPUTS})


def parser_of(kind):
    return Parser(FIELDS, ADAPTERS[kind].reading)


def joined(kind, chunks):
    parser, texts = parser_of(kind), dict.fromkeys(FIELDS, "")
    for piece in [*(piece for chunk in chunks for piece in parser.feed(chunk)), *parser.finish()]:
        assert piece.text, "an empty piece"
        texts[piece.field] += piece.text
    return texts


def every_way(kind, text, sizes):
    """The result, after checking that the chunking does not change it."""
    chunks, rest = [], text
    while rest:
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(rest[:size])
        rest = rest[size:]
    whole = joined(kind, [text])
    assert joined(kind, list(text)) == joined(kind, chunks) == whole
    return whole


def parsed(kind, text):
    with suppress(AdapterParseError):
        found = adapter_for(kind).parse(TWO_TEXTS, text)
        return {name: value.strip() if kind == "xml" else value for name, value in found.items()}
    return None


def without_header_indents(text):
    """DSPy leaves the end of an indented header in the text; so compare without the indent."""
    lines = text.splitlines(keepends=True)
    return "".join(line.lstrip() if field_header_pattern.match(line.strip()) else line for line in lines)


many = settings(max_examples=60, suppress_health_check=list(HealthCheck))
some_sizes = st.lists(st.integers(1, 9), min_size=1, max_size=5)
nasty = [
    "\n", "\r", "\r\n", "\x0b", "\x85", "\u2028", "\n\n", " ", "  ", "\t", "[", "[[", "[[ ", "#", "]]",
    "\\", "\\u", "d83d", "<", ">", "&", "{", "}", '"', ",", ":", "x", "Hello wor", "漢字", "😀",
    "[[ ## ", " ## ]]", "[[1, 2]]", "if [[ -f x ]]", "    code()", "&lt;", "</", "answer", "List<int>",
]  # fmt: skip
any_text = st.one_of(
    st.lists(st.sampled_from(nasty), max_size=25).map("".join),
    st.text(st.characters(codec="utf-8"), max_size=40),
)
markup = [
    *nasty, A, "[[ ## reasoning ## ]]", f"\n{A}\n", f"\n  {A}", "\n[[ ## completed ## ]]\n",
    "<answer>", "</answer>", "<reasoning>", "</reasoning>", "<answer",
    '{"', '"answer": "', '"reasoning": "', '", ', '"}', "\\n", '\\"', "\\ud83d\\ude00", "\\ud83d", "[1, {",
]  # fmt: skip
any_reply = st.lists(st.sampled_from(markup), max_size=25).map("".join)


@KINDS
@many
@given(reasoning=any_text, answer=any_text, sizes=some_sizes)
def test_what_dspy_writes_is_shown_as_dspy_reads_it(kind, reasoning, answer, sizes):
    values = {"reasoning": reasoning.replace("<think>", ""), "answer": answer.replace("<think>", "")}
    if kind == "xml":  # XML makes every line end one, and cannot hold control characters at all
        values = {name: text.replace("\r", "") for name, text in values.items()}
    written = adapter_for(kind).format_assistant_message_content(TWO_TEXTS, values)
    shown, expected = every_way(kind, written, sizes), parsed(kind, without_header_indents(written))
    assert expected is None or shown == expected
    assert kind == "xml" or expected is not None


@many
@given(text=st.one_of(any_reply, any_reply.map(lambda text: A + text), any_text), sizes=some_sizes)
@example(text=f"{A}x\r\n{A}y", sizes=[1])
@example(text=f"{A} a  \n b ", sizes=[3])
def test_chat_agrees_with_dspy_on_any_text(text, sizes):
    assert every_way("chat", text, sizes) == parsed("chat", without_header_indents(text))


@many
@given(
    values=st.fixed_dictionaries({
        "other": st.none() | any_text | st.lists(st.dictionaries(any_text, any_text), max_size=2),
        "reasoning": any_text, "mo\\re": any_text, "answer": any_text,
    }),
    ascii_only=st.booleans(), indent=st.sampled_from([None, 2]), cut=st.integers(0, 20), sizes=some_sizes,
)  # fmt: skip
def test_json_in_a_fence_after_prose_or_cut(values, ascii_only, indent, cut, sizes):
    text = json.dumps(values, ensure_ascii=ascii_only, indent=indent)
    expected = {"reasoning": values["reasoning"], "answer": values["answer"]}
    assert every_way("json", f"Sure:\n```json\n{text}\n```\nDone. {{}}", sizes) == expected
    shown = every_way("json", text[: len(text) - cut], sizes)
    whole = {name: value.removesuffix("\ufffd") for name, value in shown.items()}  # half of a pair
    assert all(expected[name].startswith(value) for name, value in whole.items())


@KINDS
@many
@given(text=st.one_of(any_reply, any_text), start=st.booleans(), sizes=some_sizes)
def test_no_text_makes_a_parser_fail(kind, text, start, sizes):
    text = OPENINGS[kind] + text if start else text
    if kind == "json":  # of what is no JSON more or less is shown
        joined(kind, list(text))
    else:
        every_way(kind, text, sizes)


CASES = [
    ("chat", f"{A}\n[[1, 2]]\n  [[ ## x ]]\nuse {A} here", f"[[1, 2]]\n  [[ ## x ]]\nuse {A} here"),
    ("chat", f"{A}\nends in\n[[ ## comp", "ends in\n[[ ## comp"),
    ("json", '{"answer": "cut\\u00', "cut"),
    ("json", '{"answer": {"a": [1, "}"]}}', '{"a": [1, "}"]}'),
    ("xml", "<answer>1 &lt; 2 &amp;&amp; &#x41;&nbsp;</answer>", "1 < 2 && A&nbsp;"),
    ("xml", "<answer>if a < b && c: List<", "if a < b && c: List"),
    ("xml", "<answer>open <b>inside</answer> after", "open <b>inside"),
]


def test_cases():
    for kind, text, answer in CASES:
        assert every_way(kind, text, [2, 3])["answer"] == answer


@KINDS
def test_text_is_out_at_once_and_later_at_most_a_few_characters_behind(kind):
    parser = parser_of(kind)
    assert parser.feed(OPENINGS[kind] + "Hello wor") == [Piece("answer", "Hello wor")]
    seen, fed = "Hello wor", "Hello wor"
    for number in range(300):
        for word in (f"word{number}", " " if number % 7 else "   ", "[[", f"{number}]] "):
            seen += "".join(piece.text for piece in parser.feed(word))
            assert seen.startswith(fed[: -len(fed) // 150 - 3].rstrip().removesuffix("[["))
            fed += word


@KINDS
@pytest.mark.parametrize("unit", ["word ", " ", "[", "<&"])
def test_cost_is_linear(kind, unit):
    def seconds(count):
        parser = parser_of(kind)
        parser.feed(OPENINGS[kind])
        start = time.process_time()
        for _ in range(count):
            parser.feed(unit)
        parser.finish()
        return time.process_time() - start

    # Linear is 16 times, quadratic 256; generous, for the machine is shared.
    assert seconds(8_000) < 64 * max(min(seconds(500), seconds(500)), 0.001)


def test_an_adapter_is_known_by_dspys_class_and_survives_a_pickle():
    class Mine(dspy.ChatAdapter):
        pass

    assert adapter_name(Mine()) == "chat" and adapter_name(dspy.Adapter()) is None
    for name in ADAPTERS:
        assert adapter_name(pickle.loads(pickle.dumps(adapter_for(name)))) == name
