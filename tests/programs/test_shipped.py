"""The shipped programs on the demo engine: every example on the page is really answered."""

from __future__ import annotations

from pathlib import Path

from dspy_demo.lm.demo_engine import UNKNOWN
from dspy_demo.programs.shipped import SHIPPED
from tests.services import conversation, house, settings_for

EXAMPLES = [(spec.name, question) for spec in SHIPPED for question in spec.examples]

ANSWERS = {
    "What is 2 + 2?": "2 + 2 = 4.",
    "What is 15% of 240, plus 3^4?": "15% of 240, plus 3^4 = 117.",
    "What is (2 + 3) * 4 - 6 / 2?": "(2 + 3) * 4 - 6 / 2 = 17.",
    "What is 7 squared minus 9?": "7 squared minus 9 = 40.",
    "What is 12 * 7?": "12 * 7 = 84.",
    "What is 15% of 80?": "15% of 80 = 12.",
    "What is (1/3 + 1/6) * 4?": "(1/3 + 1/6) * 4 = 2.",
    "What is 1000 divided by 8?": "1000 divided by 8 = 125.",
    "What is 1234 * 5678?": "1234 * 5678 = 7006652.",
    "What time is it in Tokyo?": " JST in Asia/Tokyo.",
    "What is 2^20 / 3?": "2^20 / 3 ≈ 349525.333333.",
    "What time is it in New York?": " in America/New_York.",
    "What is 12 * 12 - 44?": "12 * 12 - 44 = 100.",
    "What is 0.1 + 0.2?": "0.1 + 0.2 = 0.3.",
    "What is 25% of 320?": "25% of 320 = 80.",
    "What is 2^10 - 24?": "2^10 - 24 = 1000.",
}


async def test_every_example_is_answered_right(data_dir: Path) -> None:
    async with house(settings_for(data_dir)) as home:
        for program, question in EXAMPLES:
            heard = await home.ask(question, program=program)
            assert heard.finished.outputs["answer"].endswith(ANSWERS[question])
            assert heard.deltas
            assert heard.finished.usage.completion_tokens > 0


async def test_react_calls_the_calculator(data_dir: Path) -> None:
    async with house(settings_for(data_dir)) as home:
        heard = await home.ask("What is 12 * 34?", program="react")
    assert [status.text.split("(")[0] for status in heard.statuses] == ["calculator", "calculator"]
    assert heard.statuses[-1].text.endswith("→ 408")
    assert "408" in heard.text("answer", channel="answer")


async def test_anything_else_gets_an_honest_sentence_with_a_history_too(data_dir: Path) -> None:
    async with house(settings_for(data_dir)) as home:
        for spec in SHIPPED:
            history = conversation("What is 12 * 4?", "12 * 4 = 48.")
            heard = await home.ask("Write me a poem about the sea", program=spec.name, history=history)
            assert heard.finished.outputs["answer"] == UNKNOWN
