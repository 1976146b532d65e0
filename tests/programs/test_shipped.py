"""The shipped programs on the demo engine, where every example is really answered; the tools of ReAct."""

import pytest

from dspy_demo.lm.demo_engine import UNKNOWN
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.programs.tools import calculator, current_time
from tests.services import conversation, house, settings_for

ANSWERS = {
    "chain_of_thought": ["= 4.", "= 36.", "= 40.", "≈ 0.666666666667."],
    "predict": ["= 84.", "= 12.", "= 125.", "= 1024."],
    "react": ["= 7006652.", " JST in Asia/Tokyo.", "= 1048576.", " in UTC."],
    "draft_and_review": ["= 144.", "= 0.3.", "= 80.", "= 1000."],
}


async def test_every_example_is_answered_right_and_all_else_honestly(data_dir):
    async with house(settings_for(data_dir)) as home:
        for spec in SHIPPED:
            for question, ending in zip(spec.examples, ANSWERS[spec.name], strict=True):
                heard = await home.ask(question, program=spec.name)
                assert heard.finished.outputs["answer"].endswith(ending)
                assert heard.deltas and heard.finished.usage.completion_tokens > 0
            history = conversation("What is 12 * 4?", "12 * 4 = 48.")
            heard = await home.ask("Write me a poem about the sea", program=spec.name, history=history)
            assert heard.finished.outputs["answer"] == UNKNOWN


# Tools

NO, NOWHERE = "Cannot calculate that", "There is no time zone"


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("(2 + 3) * 4", "20"), ("15% of 80", "12"), ("2^10", "1024"), ("-7 / 2", "-3.5"),
        ("", NO), ("1/0", NO), ("9**9**9", NO), ("__import__('os')", NO), ("2 +", NO), ("(" * 5000, NO),
    ],
)  # fmt: skip
def test_the_calculator_is_exact_and_refuses_in_words(expression, result):
    found = calculator(expression)
    assert found.startswith(NO) if result == NO else found == result


@pytest.mark.parametrize(
    ("zone", "told"),
    [
        (" UTC ", "UTC"), ("Asia/Tokyo", "JST"), ("tokyo", "Europe/Paris"),
        ("", NOWHERE), ("../../etc/passwd", NOWHERE), ("Mars/Olympus", NOWHERE), ("\0", NOWHERE),
    ],
)  # fmt: skip
def test_the_time_is_that_of_the_zone(zone, told):
    assert told in current_time(zone)
