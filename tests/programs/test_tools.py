"""The tools of the ReAct program, with good and bad arguments."""

from __future__ import annotations

import pytest

from dspy_demo.programs.tools import calculator, current_time, text_statistics


@pytest.mark.parametrize(
    ("expression", "result"),
    [("(2 + 3) * 4", "20"), ("15% of 80", "12"), ("2^10", "1024"), ("7 / 2", "3.5")],
)
def test_the_calculator_is_exact(expression: str, result: str) -> None:
    assert calculator(expression) == result


@pytest.mark.parametrize("expression", ["", "1/0", "9**9**9", "__import__('os')", "2 +", "(" * 5000])
def test_the_calculator_refuses_in_words(expression: str) -> None:
    assert calculator(expression).startswith("Cannot calculate that")


def test_the_time_is_that_of_the_zone() -> None:
    assert "UTC" in current_time(" UTC ")
    assert "JST" in current_time("Asia/Tokyo")


@pytest.mark.parametrize("zone", ["", "Tokio", "../../etc/passwd", "Mars/Olympus", "\0"])
def test_an_unknown_zone_is_told(zone: str) -> None:
    assert current_time(zone).startswith("There is no time zone")


def test_a_near_zone_is_offered() -> None:
    assert "Asia/Tokyo" in current_time("tokyo")


def test_text_statistics() -> None:
    assert (
        text_statistics("One two. Three!\nFour") == "20 characters, 15 letters, 4 words, 3 sentences, 2 lines"
    )
    assert text_statistics("") == "0 characters, 0 letters, 0 words, 0 sentences, 0 lines"
