"""Which images a turn may hold, and who may send which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import pytest

from dspy_demo.errors import DemoError
from dspy_demo.events import GUEST, LocalTarget, TurnRequest, Visitor
from dspy_demo.programs.own import spec_of
from dspy_demo.programs.registry import ProgramRegistry
from tests.cases.describes_images import program
from tests.services import house, settings_for

OWNER = Visitor("owner", "o")
DATA = "data:image/png;base64,"
SPEC = spec_of(program, name="describe")


@pytest.mark.parametrize(
    ("image", "who", "code"),
    [
        (DATA + "AAAA", GUEST, ""),
        ({"url": DATA + "AAAA"}, OWNER, ""),
        (DATA + "A" * 120_000, GUEST, ""),  # beside the limit on text
        ("http://127.0.0.1/secret.png", OWNER, ""),
        ("http://127.0.0.1/secret.png", GUEST, "invalid_input"),
        ({"url": "http://169.254.169.254/latest"}, GUEST, "invalid_input"),
        ("https://public.example/cat.png", GUEST, "invalid_input"),
        ("https://user:password@public.example/cat.png", OWNER, "invalid_input"),
        ("/etc/passwd", OWNER, "invalid_input"),
        ("file:///etc/passwd", OWNER, "invalid_input"),
        ("data:text/html;base64,AAAA", OWNER, "invalid_input"),
        ({"url": DATA + "AAAA", "download": True}, OWNER, "invalid_input"),
        ([DATA + "AAAA"], OWNER, "invalid_input"),
        (DATA + "A" * 150_000, OWNER, "input_too_long"),
        ("", OWNER, "invalid_input"),
    ],
)
async def test_who_may_send_which_image(data_dir: Path, image: Any, who: Visitor, code: str) -> None:
    async with house(settings_for(data_dir), programs=ProgramRegistry([SPEC])) as home:
        target = LocalTarget("describe", home.choice)
        request = TurnRequest(target, {"question": "What is it?", "image": image}, visitor=who)
        try:
            home.service.check(request)
            refused = ""
        except DemoError as error:
            refused = error.code
    assert refused == code


def test_the_second_image_may_be_left_out() -> None:
    fields = {field.name: field for field in SPEC.inputs}
    assert (fields["image"].required, fields["other"].required) == (True, False)
    assert fields["other"].annotation == dspy.Image | None
