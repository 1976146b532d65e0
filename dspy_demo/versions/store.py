"""`VersionStore`: everything that the page, the routes and the command line do with versions."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module

from dspy_demo.events import LMChoice
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.settings import Settings
from dspy_demo.versions.browse import Registry
from dspy_demo.versions.confidential import known_secrets, public_url
from dspy_demo.versions.log import checked, log_version, refuse_secrets
from dspy_demo.versions.tracking import Progress, Tracking
from dspy_demo.versions.trial import Trials
from dspy_demo.versions.version import LoadedVersion, LogRequest, Version


class VersionStore:
    """The versions of `settings`' tracking store.

    MLflow is imported and its database made on first use. Every method blocks, some of them for seconds:
    call them in a thread (``asyncio.to_thread``). Many may be called at once, and while turns stream.

    Args:
        environ: The app's environment: for the processes that try a version, and for the secrets in it.

    Raises (every method):
        TrackingUnavailable: The store cannot be reached or written.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str] = os.environ) -> None:
        self._settings = settings
        self._environ = environ
        self.tracking = Tracking(settings)
        self._registry = Registry(self.tracking)
        self._trials = Trials(settings, environ)
        self._checking: list[Version] = []

    @property
    def tracking_uri(self) -> str:
        return self.tracking.uri

    @property
    def ready(self) -> bool:
        """Whether the store is open, so that the next call does not take seconds."""
        return self.tracking.ready

    def prepare(self, progress: Progress = lambda _: None) -> None:
        """Open the store, so that the next click is quick; `progress` gets a few words at each step."""
        self.tracking.prepare(progress)
        from dspy_demo.versions.source_code import app_source

        import_module("dspy_demo.versions.artifact")  # with dspy
        app_source()

    def log(self, request: LogRequest, programs: ProgramRegistry, adapter: str = "chat") -> Version:
        """Make the program of `request` a registered version. No language model is called.

        It takes seconds: a new process loads the version first. Meanwhile `checking` names it.

        Raises:
            InvalidInput: A name, tag or description cannot be stored, or holds a secret.
            NotFound: There is no such program.
            VersionNotLogged: It cannot be saved, no new process can load it, or it holds a secret.
        """
        secrets = known_secrets(self._settings, request.lm, self._environ)
        request = checked(request, secrets)
        spec, module = programs.get(request.program), programs.module(request.program)
        with self._announced(request):
            self.tracking.prepare()
            from dspy_demo.versions.artifact import Draft, in_clean_context

            draft: Draft = in_clean_context(
                Draft, spec, module, request.lm, spec.adapter or adapter, self._settings
            )
            return self._registry.made(log_version(self.tracking, draft, request, self._trials, secrets))

    @property
    def checking(self) -> list[Version]:
        """What is being logged now, newest first. It can be neither served nor promoted yet."""
        return self._checking[::-1]

    @contextmanager
    def _announced(self, request: LogRequest) -> Iterator[None]:
        announced = Version.checking_of(request, time.time())
        self._checking = [*self._checking, announced]
        try:
            yield
        finally:
            self._checking = [one for one in self._checking if one is not announced]

    def close(self) -> None:
        """End the processes that try a version; such a log fails."""
        self._trials.close()

    def versions(self, name: str | None = None) -> list[Version]:
        """All versions, or those of one name; newest first, others' too, with the reason if they cannot chat.

        Raises:
            VersionNotFound: There is no registered model `name`.
        """
        return self._registry.versions(name)

    def get(self, reference: str) -> Version:
        """The version of ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.

        Raises:
            VersionNotFound: There is none.
        """
        return self._registry.get(reference)

    def promote(self, reference: str) -> Version:
        """Make it the champion.

        Raises:
            VersionNotServable: It cannot answer a chat.
        """
        return self._registry.promote(reference)

    def roll_back(self, name: str) -> Version:
        """Make the previous champion the champion again; a second time undoes it.

        Raises:
            VersionNotFound: There is no previous champion.
        """
        return self._registry.roll_back(name)

    def previous_champion(self, name: str) -> int | None:
        """The version that `roll_back` would bring back."""
        return self._registry.previous_champion(name)

    def describe(self, reference: str, description: str) -> Version:
        """
        Raises:
            InvalidInput: It is too long, or holds a secret.
        """
        self._refuse_secrets(description)
        return self._registry.describe(reference, description)

    def tag(self, reference: str, tags: Mapping[str, str]) -> Version:
        """Replace the user's tags; the app's own stay.

        Raises:
            InvalidInput: One of them cannot be stored, or holds a secret.
        """
        self._refuse_secrets(*tags, *tags.values())
        return self._registry.tag(reference, tags)

    def _refuse_secrets(self, *texts: str) -> None:
        refuse_secrets(texts, known_secrets(self._settings, LMChoice(""), self._environ))

    def load(self, reference: str) -> LoadedVersion:
        """The program of a version in this process, with its model and adapter. Runs code of the version.

        Raises:
            VersionNotServable: It was logged with other code than this process has, or does not load here.
        """
        from dspy_demo.versions.loading import load_version

        return load_version(self.tracking, self.get(reference))

    def link(self, version: Version, ui_url: str | None = None) -> str:
        """Its page in MLflow: at `ui_url` (`serving.mlflow_ui`), or at the remote server; else empty."""
        if not ui_url and not self.tracking.remote:
            return ""
        return self._registry.link(version, ui_url or public_url(self.tracking.uri) or "")
