"""Who a request is from, by what it says of itself, and how the terminal says how to be the owner."""

import stat
import time
from queue import Queue

import pytest
from itsdangerous import TimestampSigner

from dspy_demo.errors import TooManyAttempts
from dspy_demo.settings import Settings
from dspy_demo.web.auth import FORWARDING, SESSION_S, Auth, is_loopback_name, stored_key
from dspy_demo.web.terminal import Terminal

TOKEN, GUESTS = "owner-token-0123456789", "guest-token-0123456789"
LOCAL, SHARED = "http://127.0.0.1:7860", "https://abc.gradio.live"
#: DNS rebinding: the browser reaches loopback by a stranger's name, and says so.
OTHER_NAMES = ["abc.gradio.live", "evil.example:7860", "127.0.0.1.evil.example", "192.168.1.7:7860"]
OTHER_NAMES += ["0.0.0.0:7860", "", "local", "127.0.0.1@evil", "[::1", "a b", "１２７.0.0.1"]


def auth_of(data_dir, **values):
    return Auth(Settings(data_dir=data_dir, **values), 7860)


def role(auth, host="127.0.0.1:7860", cookie="", **headers):
    """The role of whoever asks so; None for a stranger."""
    named = {"host": host} | {name.replace("_", "-"): value for name, value in headers.items()}
    visitor = auth.visitor(named, {auth.cookie_name: cookie} if cookie else {})
    return visitor and visitor.role


def test_the_person_at_the_machine_is_the_owner_and_nobody_who_comes_otherwise(data_dir):
    auth = auth_of(data_dir)
    for host in ("127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "127.8.8.8"):
        assert role(auth, host, authorization="Bearer unused") == "owner"  # an OpenAI client sends one
    for host in OTHER_NAMES:
        assert not is_loopback_name(host)
        assert role(auth, host) is None
    for header in FORWARDING:
        assert role(auth, **{header: "203.0.113.7"}) is None


@pytest.mark.parametrize("values", [{"public": True}, {"host": "0.0.0.0"}, {"host": "::"}])
def test_when_strangers_can_come_being_here_is_not_enough(data_dir, values):
    public = auth_of(data_dir, **values)
    assert public.public
    assert role(public) is None
    for of in ("owner", "guest"):
        assert role(public, cookie=public.new_session(of)) == of


def test_tokens(data_dir):
    public = auth_of(data_dir, public=True, owner_token=TOKEN, guest_token=GUESTS)
    assert role(public, authorization=f"Bearer {TOKEN}") == "owner"
    assert role(public, authorization=f"bearer {GUESTS}") == "guest"
    for wrong in (f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer", "Bearer  "):
        assert role(public, authorization=wrong) is None
    made = auth_of(data_dir, public=True)
    assert role(made, authorization=f"Bearer {made.owner_token.get_secret_value()}") == "owner"


def test_a_session_is_signed_names_its_visitor_and_ends(data_dir, monkeypatch):
    auth = auth_of(data_dir)

    def session(cookie):
        return auth.session({auth.cookie_name: cookie})

    cookie, now = auth.new_session("guest"), int(time.time())
    visitor = session(cookie)
    assert visitor.name not in cookie  # the name may be logged, the cookie may not
    assert session(cookie) == visitor != session(auth.new_session("guest"))
    for other in (cookie.replace("guest", "owner"), "", "x", "é.a.b.c"):
        assert session(other) is None
    for later_s, ended in ((SESSION_S - 60, False), (SESSION_S + 60, True)):
        monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _, at=now + later_s: at)
        assert (session(cookie) is None) is ended


def test_sessions_outlive_a_restart_only_with_a_fixed_token_by_a_key_for_its_user_alone(data_dir):
    fixed = {"public": True, "owner_token": TOKEN}
    cookie = auth_of(data_dir, **fixed).new_session("guest")
    assert role(auth_of(data_dir, **fixed), cookie=cookie)
    assert role(auth_of(data_dir, public=True), cookie=cookie) is None
    assert role(auth_of(data_dir / "other", **fixed), cookie=cookie) is None
    assert role(auth_of(data_dir, guest_password="secret", **fixed), cookie=cookie) is None
    kept = data_dir / "session.key"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stored_key(kept) != stored_key(kept)  # no folder: a new one each time


def test_guesses_of_the_password_run_out_and_come_back(data_dir, monkeypatch):
    now_s = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    auth = auth_of(data_dir, public=True, guest_password="open sesame")
    assert auth.password_fits("open sesame")
    for _ in range(20):
        assert not auth.password_fits("open barley")
    with pytest.raises(TooManyAttempts):
        auth.password_fits("open sesame")
    now_s[0] = 61
    assert auth.password_fits("open sesame")
    assert not auth_of(data_dir, public=True).password_fits("")


def terminal_of(data_dir, **settings):
    auth = auth_of(data_dir, **({"open": False} | settings))
    return Terminal(auth.settings, auth, 7860), auth


def test_link_and_token_are_printed_once_it_is_shared_and_the_next_link_after_one_is_used(data_dir, capsys):
    terminal, auth = terminal_of(data_dir)
    terminal.tell_ready()
    assert capsys.readouterr().out == f"Ready: {LOCAL}\n"
    terminal.shared(True)
    terminal.linked(SHARED)
    out, used = capsys.readouterr().out, auth.link_code
    assert auth.public
    assert f"Public link: {SHARED}\n" in out
    for once in (auth.owner_link(LOCAL), auth.owner_link(SHARED), auth.owner_token.get_secret_value()):
        assert out.count(once) == 1
    assert auth.use_link(used)
    out = capsys.readouterr().out
    assert (auth.owner_link(SHARED) in out, used in out) == (True, False)
    terminal.shared(False)
    auth.use_link(auth.link_code)
    assert SHARED not in capsys.readouterr().out


@pytest.mark.parametrize("settings", [{}, {"share": True}, {"public": True}])
def test_the_browser_that_is_opened_is_the_owners(data_dir, monkeypatch, settings):
    """Also with ``--share``: the link may open between the start and the first request."""
    opened = Queue()
    monkeypatch.setattr("webbrowser.open", opened.put)
    terminal, auth = terminal_of(data_dir, open=True, owner_token="chosen-by-the-owner", **settings)
    terminal.tell_ready()
    assert opened.get(timeout=5) == (auth.owner_link(LOCAL) if settings else LOCAL)


def test_who_is_elsewhere_is_told_how_to_be_the_owner(data_dir, capsys):
    space = Settings.load(["--no-open"], {"SPACE_HOST": "me-demo.hf.space", "DSPY_DEMO_HOST": "0.0.0.0"})
    chosen = {"host": space.host, "public_url": space.public_url, "owner_token": "chosen-by-the-owner"}
    terminal, auth = terminal_of(data_dir, **chosen)
    terminal.tell_ready()
    out = capsys.readouterr().out
    assert f"https://me-demo.hf.space/?token={auth.link_code}\n" in out
    assert "chosen-by-the-owner" not in out
    _, auth = terminal_of(data_dir)
    for _ in range(2):
        auth.on_outside()
    out = capsys.readouterr().out
    assert f"add /?token={auth.link_code} to the address" in out
    assert out.count(auth.owner_link(LOCAL)) == 1
