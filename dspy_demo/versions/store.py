"""`VersionStore`: everything that the page, the routes and the command line do with versions."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.settings import Settings
from dspy_demo.versions.browse import Registry
from dspy_demo.versions.confidential import public_url
from dspy_demo.versions.log import checked, log_version
from dspy_demo.versions.tracking import Progress, Tracking
from dspy_demo.versions.version import Links, LoadedVersion, LogRequest, Version


class VersionStore:
    """The versions of `settings`' tracking store.

    MLflow is imported and its database made on first use. Every method blocks, some of them for seconds:
    call them in a thread (``asyncio.to_thread``). Many may be called at once, and while turns stream.

    Raises (every method):
        TrackingUnavailable: The store cannot be reached or written.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.tracking = Tracking(settings)
        self._registry = Registry(self.tracking)

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

        Raises:
            InvalidInput: A name, tag or description cannot be stored.
            NotFound: There is no such program.
            VersionNotLogged: The program cannot be saved, or only with a secret in it.
        """
        request = checked(request, self._settings)
        made = log_version(self.tracking, request, programs, adapter, self._settings)
        return self._registry.made(made)

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
        return self._registry.describe(reference, description)

    def tag(self, reference: str, tags: Mapping[str, str]) -> Version:
        """Replace the user's tags; the app's own stay."""
        return self._registry.tag(reference, tags)

    def load(self, reference: str) -> LoadedVersion:
        """The program of a version in this process, with its model and adapter. Runs code of the version.

        Raises:
            VersionNotServable: It is no DSPy program, or does not load here.
        """
        from dspy_demo.versions.loading import load_version

        return load_version(self.tracking, self.get(reference))

    def links(self, version: Version, ui_url: str | None = None) -> Links:
        """Its pages in MLflow: at `ui_url` (`serving.mlflow_ui`), or at the remote server; else empty."""
        if not ui_url and not self.tracking.remote:
            return Links("", "", "")
        return self._registry.links(version, ui_url or public_url(self.tracking.uri) or "")
