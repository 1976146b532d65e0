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


@pytest.mark.parametrize(
    ("zone", "told"),
    [
        (" UTC ", "UTC"),
        ("Asia/Tokyo", "JST"),
        ("tokyo", "Did you mean Asia/Tokyo?"),
        *(
            (zone, "There is no time zone")
            for zone in ("", "Tokio", "../../etc/passwd", "Mars/Olympus", "\0")
        ),
    ],
)
def test_the_time_is_that_of_the_zone(zone: str, told: str) -> None:
    assert told in current_time(zone)


def test_text_statistics() -> None:
    assert text_statistics("One two. Three!\nFour") == "20 characters, 15 letters, 4 words, 2 lines"
    assert text_statistics("") == "0 characters, 0 letters, 0 words, 0 lines"
