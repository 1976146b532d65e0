"""What the page works with beside the chat: versions, servers, MLflow's pages, public link, downloads."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from dspy_demo.backends.served import ServedBackend, base_url
from dspy_demo.errors import DemoError
from dspy_demo.lm.local.download import Downloads
from dspy_demo.logs import log_failure
from dspy_demo.serving.mlflow_ui import MLflowPages
from dspy_demo.serving.processes import ModelServers
from dspy_demo.settings import Settings
from dspy_demo.share.tunnel import Tunnel
from dspy_demo.versions.store import VersionStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Workbench:
    """The services, as `app.py` made them."""

    store: VersionStore
    servers: ModelServers
    served: ServedBackend
    pages: MLflowPages
    tunnel: Tunnel
    downloads: Downloads

    def guest_urls(self, settings: Settings) -> Callable[[], set[str]]:
        """The servers that a guest's turn may go to: the app's own, and the one of ``--served-url``."""
        fixed = {base_url(settings.served_url)} if settings.served_url else set()
        return lambda: fixed | {url for url in [self.servers.state().url] if url}


def sentence_of(error: Exception) -> str:
    """What the page says of an error; of a fault with the number that its line in the log has too."""
    failure = DemoError.of(error)
    log_failure(log, "the page could not do that", failure)
    number = f" (Error {failure.error_id})" if failure.http_status >= 500 else ""
    return failure.public_message + number
