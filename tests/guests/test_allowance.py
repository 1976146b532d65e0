"""What guests may use, as the owner set it."""

import pytest
from pydantic import SecretStr

from dspy_demo.errors import Forbidden, SettingsError
from dspy_demo.events import LMChoice, LocalTarget, ServedTarget, TurnRequest
from dspy_demo.guests.allowance import Allowance
from dspy_demo.lm.choices import Detection, LMOption
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.settings import Settings
from tests.visitors import OWNER, STRANGER

INNER, SERVER = "http://inner:8000/v1", "http://127.0.0.1:5001"
START = LMChoice("openai/small", INNER, SecretStr("sk-owner"), temperature=0.5)
LARGE = LMChoice("openai/large")
OPTIONS = (LMOption("openai/small", "Small", INNER, INNER), LMOption(LARGE.model, "Large", "key found"))


def allowance(**values):
    detection = Detection(START, "OPENAI_API_KEY is set.", OPTIONS)
    return Allowance(Settings(**values), SHIPPED, detection, lambda: {SERVER})


def local(lm=START, program="chain_of_thought", visitor=STRANGER):
    return TurnRequest(LocalTarget(program, lm), {}, visitor=visitor)


def served(url=SERVER, visitor=STRANGER):
    return TurnRequest(ServedTarget(url), {}, visitor=visitor)


def test_by_default_every_program_on_the_first_model_and_nothing_that_a_guest_names():
    guests = allowance()
    assert guests.programs == tuple(spec.name for spec in SHIPPED)
    guests.check(local())
    guests.check(served())
    named = [
        LARGE,
        LMChoice("openai/small"),  # the same model at another address
        LMChoice("openai/small", "http://169.254.169.254/v1", START.api_key),
        LMChoice("openai/small", INNER, SecretStr("sk-typed")),
        LMChoice("local/../../etc/passwd"),
    ]
    urls = ("http://169.254.169.254", "http://127.0.0.1:5002", "http://localhost:5001", f"{SERVER}/x")
    for request in [*map(local, named), *map(served, urls)]:
        with pytest.raises(Forbidden):
            guests.check(request)


def test_what_the_settings_name_binds_guests_and_not_the_owner():
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
