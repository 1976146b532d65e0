"""Stand-ins for the services that the page's handlers must not touch: what is asked for fails."""

from types import SimpleNamespace

from dspy_demo.serving.processes import ServerState
from dspy_demo.ui.components import Services


def servers_in(state):
    """Model servers of which the current one is in that state."""
    return SimpleNamespace(state=lambda: state)


def services_of(home, **services):
    """What a page works with, with stand-ins for all that `home` and `services` do not have."""
    stand_ins = {name: SimpleNamespace() for name in ("versions", "local", "served", "tunnel", "downloads")}
    stand_ins |= {"servers": servers_in(ServerState()), "mlflow": SimpleNamespace(url="")}
    known = {"settings": home.settings, "chat": home.service, "catalog": home.catalog}
    return Services(**stand_ins | known | services)
