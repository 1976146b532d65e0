"""What guests may use, as the owner set it."""

from __future__ import annotations

from pathlib import Path
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

KEY = SecretStr("sk-owner")
START = LMChoice("openai/small", "http://inner:8000/v1", KEY, temperature=0.5)
OPTIONS = (
    LMOption("openai/small", "Small", "http://inner:8000/v1", "http://inner:8000/v1"),
    LMOption("openai/large", "Large", "key found in the environment"),
)
SERVER = "http://127.0.0.1:5001"


def allowance(data_dir: Path, **values: Any) -> Allowance:
    detection = Detection(START, "OPENAI_API_KEY is set.", OPTIONS)
    return Allowance(Settings(data_dir=data_dir, **values), SHIPPED, detection, lambda: {SERVER})


def local(
    lm: LMChoice = START, program: str = "chain_of_thought", visitor: Visitor = STRANGER
) -> TurnRequest:
    return TurnRequest(LocalTarget(program, lm), {}, visitor=visitor)


def served(url: str = SERVER, visitor: Visitor = STRANGER) -> TurnRequest:
    return TurnRequest(ServedTarget(url), {}, visitor=visitor)


def test_by_default_every_program_on_the_first_model(data_dir: Path) -> None:
    guests = allowance(data_dir)
    assert guests.programs == tuple(spec.name for spec in SHIPPED)
    guests.check(local())
    guests.check(served())
    with pytest.raises(Forbidden, match="model"):
        guests.check(local(LMChoice("openai/large")))


@pytest.mark.parametrize(
    "lm",
    [
        LMChoice("openai/small"),  # the same model at another address
        LMChoice("openai/small", "http://169.254.169.254/v1", KEY),
        LMChoice("openai/small", "http://inner:8000/v1", SecretStr("sk-typed")),
        LMChoice("local/../../etc/passwd"),
    ],
)
def test_nothing_typed_is_used_for_a_guest(data_dir: Path, lm: LMChoice) -> None:
    with pytest.raises(Forbidden):
        allowance(data_dir).check(local(lm))


def test_no_inner_address_is_asked_for_a_guest_and_the_owner_may_all_of_it(data_dir: Path) -> None:
    guests = allowance(data_dir, guest_programs="react")
    for url in ("http://169.254.169.254", "http://127.0.0.1:5002", "http://localhost:5001", f"{SERVER}/x"):
        with pytest.raises(Forbidden):
            guests.check(served(url))
    guests.check(local(LMChoice("any/model", "http://10.0.0.1/v1"), "not_listed", OWNER))
    guests.check(served("http://10.0.0.1", OWNER))


def test_what_the_settings_name(data_dir: Path) -> None:
    guests = allowance(data_dir, guest_programs="react, predict", guest_models="openai/large")
    guests.check(local(LMChoice("openai/large"), "react"))
    for request in (local(), local(LMChoice("openai/large"), "chain_of_thought")):
        with pytest.raises(Forbidden):
            guests.check(request)
    assert [spec.name for spec in guests.programs_of(SHIPPED)] == ["predict", "react"]
    assert guests.detection.choice == LMChoice("openai/large", temperature=0.5)


def test_a_guest_learns_nothing_of_keys_and_addresses(data_dir: Path) -> None:
    shown = allowance(data_dir, guest_models="openai/small,openai/large").detection
    assert shown.reason == ""
    assert [(option.title, option.note) for option in shown.options] == [("Small", ""), ("Large", "")]


@pytest.mark.parametrize("values", [{"guest_programs": "nope"}, {"guest_models": "openai/nope"}])
def test_a_name_that_is_not_there_is_told_at_the_start(data_dir: Path, values: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="nope"):
        allowance(data_dir, **values)
