"""The shipped programs on the demo engine: every example on the page is really answered."""

from __future__ import annotations

from pathlib import Path

from dspy_demo.lm.demo_engine import UNKNOWN
from dspy_demo.programs.shipped import SHIPPED
from tests.services import conversation, house, settings_for

ANSWERS = {
    "chain_of_thought": ["= 4.", "= 117.", "= 40."],
    "predict": ["= 84.", "= 12.", "= 125."],
    "react": ["= 7006652.", " JST in Asia/Tokyo.", "≈ 349525.333333."],
    "draft_and_review": ["= 100.", "= 0.3.", "= 80."],
}


async def test_every_example_is_answered_right_and_all_else_honestly(data_dir: Path) -> None:
    async with house(settings_for(data_dir)) as home:
        for spec in SHIPPED:
            for question, ending in zip(spec.examples, ANSWERS[spec.name], strict=True):
                heard = await home.ask(question, program=spec.name)
                assert heard.finished.outputs["answer"].endswith(ending)
                assert heard.deltas and heard.finished.usage.completion_tokens > 0
            history = conversation("What is 12 * 4?", "12 * 4 = 48.")
            heard = await home.ask("Write me a poem about the sea", program=spec.name, history=history)
            assert heard.finished.outputs["answer"] == UNKNOWN


async def test_react_calls_the_calculator(data_dir: Path) -> None:
    async with house(settings_for(data_dir)) as home:
        heard = await home.ask("What is 12 * 34?", program="react")
    assert [status.text.split("(")[0] for status in heard.statuses] == ["calculator", "calculator"]
    assert heard.statuses[-1].text.endswith("→ 408")
    assert "408" in heard.text("answer", channel="answer")
