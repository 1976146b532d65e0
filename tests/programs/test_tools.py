"""The tools of the ReAct program, with good and bad arguments."""

from __future__ import annotations

import pytest

from dspy_demo.programs.tools import calculator, current_time, text_statistics

NO, NOWHERE = "Cannot calculate that", "There is no time zone"


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("(2 + 3) * 4", "20"), ("15% of 80", "12"), ("2^10", "1024"), ("-7 / 2", "-3.5"),
        ("", NO), ("1/0", NO), ("9**9**9", NO), ("__import__('os')", NO), ("2 +", NO), ("(" * 5000, NO),
    ],
)  # fmt: skip
def test_the_calculator_is_exact_and_refuses_in_words(expression: str, result: str) -> None:
    found = calculator(expression)
    assert found.startswith(NO) if result == NO else found == result


@pytest.mark.parametrize(
    ("zone", "told"),
    [
        (" UTC ", "UTC"), ("Asia/Tokyo", "JST"), ("tokyo", "Did you mean Asia/Tokyo?"),
        ("", NOWHERE), ("../../etc/passwd", NOWHERE), ("Mars/Olympus", NOWHERE), ("\0", NOWHERE),
    ],
)  # fmt: skip
def test_the_time_is_that_of_the_zone(zone: str, told: str) -> None:
    assert told in current_time(zone)


def test_text_statistics() -> None:
    assert text_statistics("One two. Three!\nFour") == "20 characters, 15 letters, 4 words, 2 lines"
