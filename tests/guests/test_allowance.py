"""What guests may use, as the owner set it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from dspy_demo.errors import Forbidden, SettingsError
from dspy_demo.events import LMChoice, LocalTarget, ServedTarget, TurnRequest, Visitor
from dspy_demo.guests.allowance import Allowance
from dspy_demo.lm.choices import Detection, LMOption
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from tests.visitors import OWNER, STRANGER

INNER = "http://inner:8000/v1"
START = LMChoice("openai/small", INNER, SecretStr("sk-owner"), temperature=0.5)
LARGE = LMChoice("openai/large")
OPTIONS = (LMOption("openai/small", "Small", INNER, INNER), LMOption(LARGE.model, "Large", "key found"))
SERVER = "http://127.0.0.1:5001"


def allowance(**values: Any) -> Allowance:
    detection = Detection(START, "OPENAI_API_KEY is set.", OPTIONS)
    return Allowance(Settings(**values), SHIPPED, detection, lambda: {SERVER})


def local(
    lm: LMChoice = START, program: str = "chain_of_thought", visitor: Visitor = STRANGER
) -> TurnRequest:
    return TurnRequest(LocalTarget(program, lm), {}, visitor=visitor)


def served(url: str = SERVER, visitor: Visitor = STRANGER) -> TurnRequest:
    return TurnRequest(ServedTarget(url), {}, visitor=visitor)


@pytest.mark.parametrize(
    "request_",
    [
        local(LARGE),
        local(LMChoice("openai/small")),  # the same model at another address
        local(LMChoice("openai/small", "http://169.254.169.254/v1", START.api_key)),
        local(LMChoice("openai/small", INNER, SecretStr("sk-typed"))),
        local(LMChoice("local/../../etc/passwd")),
        *map(
            served,
            ("http://169.254.169.254", "http://127.0.0.1:5002", "http://localhost:5001", f"{SERVER}/x"),
        ),
    ],
)
def test_by_default_every_program_on_the_first_model_and_nothing_that_a_guest_names(
    request_: TurnRequest,
) -> None:
    guests = allowance()
    assert guests.programs == tuple(spec.name for spec in SHIPPED)
    guests.check(local())
    guests.check(served())
    with pytest.raises(Forbidden):
        guests.check(request_)


def test_what_the_settings_name_binds_guests_and_not_the_owner() -> None:
    guests = allowance(guest_programs="react, predict", guest_models="openai/large")
    guests.check(local(LARGE, "react"))
    for request in (local(), local(LARGE)):
        with pytest.raises(Forbidden):
            guests.check(request)
    assert [spec.name for spec in guests.programs_of(SHIPPED)] == ["predict", "react"]
    assert guests.detection.choice == LMChoice("openai/large", temperature=0.5)
    guests.check(local(LMChoice("any/model", "http://10.0.0.1/v1"), "not_listed", OWNER))
    guests.check(served("http://10.0.0.1", OWNER))
    for values in ({"guest_programs": "nope"}, {"guest_models": "openai/nope"}):
        with pytest.raises(SettingsError, match="nope"):
            allowance(**values)
