"""The version list, ages and tags: drawing and reading of plain values."""

from __future__ import annotations

import re

import pytest

from dspy_demo.errors import InvalidInput
from dspy_demo.ui.ages import ago, lasting
from dspy_demo.ui.tag_text import parse_tags
from dspy_demo.ui.version_rows import EMPTY, Row, commands, logged_html, message_html, rows_html, title_of
from dspy_demo.versions.version import Version

NOW = 1_000_000.0


def version(number: int = 3, **details: object) -> Version:
    known: dict[str, object] = {"created_at": NOW - 200, "program": "chain_of_thought", "lm": "openai/x"}
    return Version("dspy-demo", number, f"models:/dspy-demo/{number}", **(known | details))  # type: ignore[arg-type]


def drawn(*rows: Row, reveal: str = "") -> str:
    return rows_html(rows, NOW, "sqlite:////data/mlflow.db", reveal)


def labels(text: str) -> list[str]:
    return re.findall(r"<(?:button|a)[^>]*>([^<]+)</(?:button|a)>", text)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "just now"),
        (59, "just now"),
        (60, "1 min ago"),
        (3_599, "59 min ago"),
        (7_200, "2 h ago"),
        (200_000, "2 d ago"),
    ],
)
def test_ages(seconds: float, words: str) -> None:
    assert ago(seconds) == words


def test_a_duration_does_not_count_seconds() -> None:
    assert lasting(1) == lasting(58) == "less than 1 min"
    assert lasting(90) == "1 min"


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("", {}),
        ("team=search", {"team": "search"}),
        ("team=search, tier=2", {"team": "search", "tier": "2"}),
        ("team=search\ntier=2\n", {"team": "search", "tier": "2"}),
        (" team = search ,tier=2,", {"team": "search", "tier": "2"}),
        ("note=first, second, tier=2", {"note": "first, second", "tier": "2"}),
        ("url=http://x/?a=b", {"url": "http://x/?a=b"}),
        ("empty=", {"empty": ""}),
    ],
)
def test_tags_are_read_as_they_are_typed(text: str, tags: dict[str, str]) -> None:
    assert parse_tags(text) == tags


@pytest.mark.parametrize("text", ["team", "=search", "team=a, team=b"])
def test_tags_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_tags(text)


def test_an_empty_list_says_what_to_do() -> None:
    assert EMPTY in drawn()


def test_a_row_tells_what_it_is() -> None:
    text = drawn(Row(version(description="New words", tags={"team": "search"})))
    for part in (
        "dspy-demo</span> <b>v3</b>",
        "Chain of thought ·&nbsp;openai/x",
        "3 min ago",
        "New words",
        "team=search",
    ):
        assert part in text
    assert "champion" not in text


def test_actions_are_those_that_work_now() -> None:
    usual = ["Edit", "Commands", "MLflow", "Save"]
    here = version(same_code=True)
    assert labels(drawn(Row(here)))[:6] == ["Serve", "Promote", "Use here", *usual[:3]]
    assert labels(drawn(Row(version())))[:5] == ["Serve", "Promote", *usual[:3]]
    champion = version(aliases=("champion",))
    assert "Promote" not in labels(drawn(Row(champion)))
    assert "Roll back to 2" in labels(drawn(Row(champion, previous=2)))
    assert not any("Roll back" in label for label in labels(drawn(Row(champion))))
    assert labels(drawn(Row(version(), serving="starting")))[0] == "Starting…"
    assert labels(drawn(Row(version(), serving="ready")))[0] == "Chat with it"


def test_a_version_that_cannot_be_served_says_why() -> None:
    text = drawn(Row(version(servable=False, same_code=True, reason="It is not a DSPy program.")))
    assert "It is not a DSPy program." in text
    assert not {"Serve", "Promote", "Use here"} & set(labels(text))


def test_a_version_that_is_being_checked_has_no_button() -> None:
    text = drawn(Row(version(0, checking=True, servable=False, reason="A new process loads it first.")))
    assert "checking" in text and "A new process loads it first." in text and labels(text) == []


def test_the_files_that_travel_are_listed() -> None:
    assert "data/a.json, data/b.json" in drawn(Row(version(files=("data/a.json", "data/b.json"))))


def test_mlflow_is_a_link_once_its_pages_run() -> None:
    assert 'href="http://127.0.0.1:5000/#/models/x"' in drawn(
        Row(version(), link="http://127.0.0.1:5000/#/models/x")
    )
    assert "<a " not in drawn(Row(version()))
    assert "<a " not in logged_html(version(), "")


def test_only_the_new_version_is_opened() -> None:
    text = drawn(Row(version(4)), Row(version(3)), reveal="models:/dspy-demo/4")
    assert re.findall('data-reveal="([^"]+)"', text) == ["models:/dspy-demo/4"]


def test_nothing_of_a_version_is_markup() -> None:
    bad = '"><img src=x onerror=alert(1)>'
    text = drawn(
        Row(
            version(description=bad, tags={"k": bad}, aliases=(bad,), program=bad, lm=bad),
            link=f"http://x/{bad}",
        ),
        Row(version(servable=False, reason=bad)),
        Row(version(0, checking=True, reason=bad, files=(bad,))),
        Row(version(files=(bad,))),
    )
    assert "<img" not in text + message_html(bad) + logged_html(version(), bad)


def test_commands_can_be_pasted_into_a_shell() -> None:
    lines = commands(Version("my model", 1, "models:/my model/1"), "sqlite:////data dir/mlflow.db")
    serve = lines["Serve, with live tokens"]
    assert "'models:/my model/1'" in serve
    assert "'sqlite:////data dir/mlflow.db'" in serve
    assert """-d '{"text": "What is 2 + 2?"}'""" in lines["Ask"]


def test_titles() -> None:
    assert title_of("models:/dspy-demo/3") == "dspy-demo v3"
    assert title_of("models:/dspy-demo@champion") == "dspy-demo @champion"
