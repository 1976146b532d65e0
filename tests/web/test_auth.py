"""Who a request is from, by what it says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dspy_demo.errors import TooManyAttempts
from dspy_demo.events import Visitor
from dspy_demo.settings import Settings
from dspy_demo.web.auth import FORWARDING, Asking, Gate, is_loopback_name

TOKEN, GUESTS = "owner-token-0123456789", "guest-token-0123456789"


def gate(data_dir: Path, **values: Any) -> Gate:
    return Gate(Settings(data_dir=data_dir, **values), 7860)


def asking(host: str = "127.0.0.1:7860", cookie: str = "", **headers: str) -> Asking:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Asking({"host": host, **named}, {"dspy-demo-7860": cookie} if cookie else {})


def role(visitor: Visitor | None) -> str | None:
    return visitor.role if visitor else None


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "127.8.8.8"])
def test_the_person_at_the_machine_is_the_owner(data_dir: Path, host: str) -> None:
    assert role(gate(data_dir).visitor(asking(host))) == "owner"


@pytest.mark.parametrize(
    "host",
    [
        "abc.gradio.live",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "192.168.1.7:7860",
        "0.0.0.0:7860",
        "",
    ],
)
def test_another_name_for_this_machine_proves_nothing(data_dir: Path, host: str) -> None:
    """DNS rebinding: the browser reaches loopback by a stranger's name, and says so."""
    assert gate(data_dir).visitor(asking(host)) is None


@pytest.mark.parametrize("header", FORWARDING)
def test_who_comes_through_a_proxy_is_not_at_the_machine(data_dir: Path, header: str) -> None:
    asked = Asking({"host": "127.0.0.1:7860", header: "203.0.113.7"})
    assert gate(data_dir).visitor(asked) is None


@pytest.mark.parametrize("values", [{"public": True}, {"host": "0.0.0.0"}, {"host": "::"}])
def test_when_strangers_can_come_being_here_is_not_enough(data_dir: Path, values: dict[str, Any]) -> None:
    public = gate(data_dir, **values)
    assert public.public
    assert public.visitor(asking()) is None
    assert role(public.visitor(asking(cookie=public.sessions.issue("owner")))) == "owner"
    assert role(public.visitor(asking(cookie=public.sessions.issue("guest")))) == "guest"


def test_sharing_shuts_the_gate_and_its_end_opens_it(data_dir: Path) -> None:
    own = gate(data_dir)
    own.share(True)
    assert own.visitor(asking()) is None
    own.share(False)
    assert role(own.visitor(asking())) == "owner"


def test_tokens(data_dir: Path) -> None:
    public = gate(data_dir, public=True, owner_token=TOKEN, guest_token=GUESTS)
    assert role(public.visitor(asking(authorization=f"Bearer {TOKEN}"))) == "owner"
    assert role(public.visitor(asking(authorization=f"bearer {GUESTS}"))) == "guest"
    for wrong in (f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer", "Bearer  "):
        assert public.visitor(asking(authorization=wrong)) is None


def test_a_token_is_made_where_none_is_set(data_dir: Path) -> None:
    one, other = gate(data_dir, public=True), gate(data_dir, public=True)
    assert one.owner_token != other.owner_token
    made = one.owner_token.get_secret_value()
    assert role(one.visitor(asking(authorization=f"Bearer {made}"))) == "owner"
    assert made not in repr(vars(one))


def test_a_client_of_openai_sends_any_key_to_a_local_app(data_dir: Path) -> None:
    assert role(gate(data_dir).visitor(asking(authorization="Bearer unused"))) == "owner"


def test_sessions_outlive_a_restart_only_with_a_fixed_token(data_dir: Path) -> None:
    cookie = gate(data_dir, public=True, owner_token=TOKEN).sessions.issue("guest")
    assert gate(data_dir, public=True, owner_token=TOKEN).visitor(asking(cookie=cookie))
    assert gate(data_dir, public=True).visitor(asking(cookie=cookie)) is None
    changed = gate(data_dir, public=True, owner_token=TOKEN, guest_password="secret")
    assert changed.visitor(asking(cookie=cookie)) is None


def test_the_password(data_dir: Path) -> None:
    closed = gate(data_dir, public=True, guest_password="open sesame")
    assert closed.asks_password
    assert closed.password_fits("open sesame")
    for _ in range(20):
        assert not closed.password_fits("open barley")
    with pytest.raises(TooManyAttempts):
        closed.password_fits("open sesame")
    assert not gate(data_dir, public=True).password_fits("")


@pytest.mark.parametrize("name", ["local", "127.0.0.1@evil", "[::1", "a b", "１２７.0.0.1", "localhost.evil"])
def test_odd_names_are_not_this_machine(name: str) -> None:
    assert not is_loopback_name(name)
