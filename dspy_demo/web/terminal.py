"""What the person who started the app reads: where it is, how its owner gets in, the public link."""

from __future__ import annotations

import threading
import webbrowser

from dspy_demo.settings import Settings
from dspy_demo.web.auth import Auth


class Terminal:
    def __init__(self, settings: Settings, auth: Auth, port: int) -> None:
        host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._settings, self._auth = settings, auth
        self._owner_told = False
        self._elsewhere = settings.public_url or ""
        auth.on_link_used = self.tell_owner_link
        auth.on_outside = self.opened_outside

    def tell_ready(self) -> None:
        say(f"Ready: {self.url}")
        page = self.url
        if self._auth.public or self._settings.share:  # it may be public before the browser is there
            page = self._auth.owner_link(self.url)
            self.tell_owner()
        if self._settings.open:
            threading.Thread(target=webbrowser.open, args=(page,), daemon=True).start()

    def tell_owner(self) -> None:
        """How the owner gets in: once, at whatever makes the app public first."""
        if not self._owner_told:
            self._owner_told = True
            self.tell_owner_link()
            if self._settings.owner_token is None:
                say(f"Owner's token for the routes: {self._auth.owner_token.get_secret_value()}")

    def opened_outside(self) -> None:
        """A page was opened through a proxy or by another name, which a stranger could have made up."""
        if not self._owner_told:
            say(f"A guest opened the page. If that was you, add {self._auth.owner_link('')} to the address.")
        self.tell_owner()

    def tell_owner_link(self) -> None:
        say(f"Owner's link, works once: {self._auth.owner_link(self.url)}")
        if self._elsewhere:
            say(f"The same from another device: {self._auth.owner_link(self._elsewhere)}")

    def shared(self, public: bool) -> None:
        """Called before a stranger can come, and when none can any more."""
        self._auth.shared = public
        self._elsewhere = self._settings.public_url or ""
        if public:
            self.tell_owner()

    def linked(self, url: str) -> None:
        """The public link is there, or has become another one."""
        self._elsewhere = url
        say(f"Public link: {url}")
        say(f"The same from another device: {self._auth.owner_link(url)}")


def say(text: str) -> None:
    print(text, flush=True)
