"""The shipped programs on the demo engine, where every example is really answered; the tools of ReAct."""

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


def test_the_calculator_is_exact_and_refuses_in_words():
    results = {"(2 + 3) * 4": "20", "15% of 80": "12", "2^10": "1024", "-7 / 2": "-3.5"}
    assert {expression: calculator(expression) for expression in results} == results
    for expression in ("", "1/0", "9**9**9", "__import__('os')", "2 +", "(" * 5000):
        assert calculator(expression).startswith("Cannot calculate that")


def test_the_time_is_that_of_the_zone():
    for zone, told in ((" UTC ", "UTC"), ("Asia/Tokyo", "JST"), ("tokyo", "Europe/Paris")):
        assert told in current_time(zone)
    for zone in ("", "../../etc/passwd", "Mars/Olympus", "\0"):
        assert "There is no time zone" in current_time(zone)
