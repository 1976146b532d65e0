"""The registry: listing versions, finding one, moving the champion, editing what is said about them."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from dspy_demo.errors import DemoError, VersionNotFound, VersionNotServable
from dspy_demo.versions.flavor import Contents, read_contents
from dspy_demo.versions.log import local_folder
from dspy_demo.versions.source_code import runs_here
from dspy_demo.versions.tracking import Tracking, tracking_errors
from dspy_demo.versions.version import (
    CHAMPION,
    OWN_TAGS,
    Version,
    check_description,
    check_tags,
    parse_reference,
    uri_of,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

#: A tag of the registered model: the version that was champion before, so that it survives a restart.
PREVIOUS_TAG = "dspy_demo.previous_champion"
LISTED_MAX = 500


class Registry:
    """The versions in the store. Every method blocks: call it in a thread."""

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking
        self._contents: dict[tuple[str, str, str], Contents] = {}
        self._moving = threading.Lock()

    def versions(self, name: str | None = None) -> list[Version]:
        """The newest `LISTED_MAX` versions, also those that other tools logged; newest first."""
        client = self._tracking.client
        with tracking_errors():
            if name is None:
                models, wanted = _all_models(client), None
            else:
                models, wanted = [client.get_registered_model(name)], f"name={_quoted(name)}"
            found = client.search_model_versions(wanted, LISTED_MAX, order_by=["creation_timestamp DESC"])
        aliases = {model.name: _aliases(model) for model in models}
        made = [self._version(item, aliases.get(item.name, {})) for item in found]
        return sorted(made, key=lambda version: (version.created_at, version.version), reverse=True)

    def get(self, reference: str) -> Version:
        """The version of ``models:/NAME/VERSION``, ``models:/NAME@ALIAS``, or either without ``models:/``.

        Raises:
            VersionNotFound: There is none.
            InvalidInput: `reference` is of another form.
        """
        client = self._tracking.client
        name, number, alias = parse_reference(reference)
        with tracking_errors():
            if alias:
                item = _existing(lambda: client.get_model_version_by_alias(name, alias), reference)
            else:
                item = _existing(lambda: client.get_model_version(name, number), reference)
            model = client.get_registered_model(name)
        return self._version(item, _aliases(model))

    def made(self, item: ModelVersion) -> Version:
        """The version that was just logged here: it has no alias yet."""
        return self._version(item, {})

    def promote(self, reference: str) -> Version:
        """Make a version the champion, and remember which one it was before.

        Raises:
            VersionNotServable: It could not answer as the champion.
        """
        version = self.get(reference)
        if not version.servable:
            raise VersionNotServable(
                f"{version.name} {version.version} cannot be the champion. {version.reason}"
            )
        with self._moving:
            self._move(version.name, version.version)
        return self.get(version.uri)

    def roll_back(self, name: str) -> Version:
        """Give the champion's place back to the one before. Again, and it is undone.

        Raises:
            VersionNotFound: There was none before, or it was deleted.
        """
        with self._moving:
            previous = self.previous_champion(name)
            if previous is None:
                raise VersionNotFound(f"{name} had no champion before, so there is nothing to roll back to.")
            self._move(name, previous)
        return self.get(uri_of(name, previous))

    def previous_champion(self, name: str) -> int | None:
        """Where `roll_back` would go, or None."""
        client = self._tracking.client
        with tracking_errors():
            model = client.get_registered_model(name)
            previous = str(model.tags.get(PREVIOUS_TAG, ""))
        if not previous.isdigit() or _champion(model) == int(previous):
            return None
        try:
            return self.get(uri_of(name, previous)).version
        except VersionNotFound:
            return None

    def _move(self, name: str, version: int) -> None:
        client = self._tracking.client
        with tracking_errors():
            current = _champion(client.get_registered_model(name))
        if current == version:
            return
        # The memory first: were the second write to fail, the champion still stands.
        if current is not None:
            self._tracking.write(lambda: client.set_registered_model_tag(name, PREVIOUS_TAG, str(current)))
        self._tracking.write(lambda: client.set_registered_model_alias(name, CHAMPION, str(version)))

    def describe(self, reference: str, description: str) -> Version:
        """Replace the description."""
        version, text = self.get(reference), check_description(description)
        client = self._tracking.client
        self._tracking.write(lambda: client.update_model_version(version.name, str(version.version), text))
        return self.get(version.uri)

    def tag(self, reference: str, tags: Mapping[str, str]) -> Version:
        """Make `tags` the user's tags: new ones are set, those that are missing are removed."""
        version, wanted = self.get(reference), check_tags(tags)
        client, name, number = self._tracking.client, version.name, str(version.version)

        def change() -> None:
            for key, value in wanted.items():
                if version.tags.get(key) != value:
                    client.set_model_version_tag(name, number, key, value)
            for key in version.tags:
                if key not in wanted:
                    client.delete_model_version_tag(name, number, key)

        self._tracking.write(change)
        return self.get(version.uri)

    def link(self, version: Version, ui_url: str) -> str:
        """Where `version` is on MLflow's pages at `ui_url`."""
        return f"{ui_url.rstrip('/')}/#/models/{quote(version.name, safe='')}/versions/{version.version}"

    def _version(self, item: ModelVersion, aliases: Mapping[str, tuple[str, ...]]) -> Version:
        tags = dict(item.tags)
        contents = self._read_once(item)
        return Version(
            name=item.name,
            version=int(item.version),
            uri=uri_of(item.name, item.version),
            aliases=aliases.get(str(item.version), ()),
            description=item.description or "",
            tags={
                key: value
                for key, value in tags.items()
                if key not in OWN_TAGS and not key.startswith("mlflow.")
            },
            created_at=item.creation_timestamp / 1000,
            program=tags.get("program", ""),
            lm=tags.get("lm", ""),
            adapter=tags.get("adapter", ""),
            app_version=tags.get("app_version", ""),
            git_commit=tags.get("git_commit", ""),
            files=tuple(tags.get("files", "").splitlines()),
            servable=not contents.reason,
            reason=contents.reason,
            same_code=bool(contents.sources) and runs_here(contents.sources),
        )

    def _read_once(self, item: ModelVersion) -> Contents:
        """The files of a version do not change."""
        identity = _identity(item)
        if identity not in self._contents:
            try:
                with tracking_errors():
                    contents = self._read(item)
            except DemoError:
                return Contents("Its files cannot be read from here.", {})
            self._contents[identity] = contents
        return self._contents[identity]

    def _read(self, item: ModelVersion) -> Contents:
        if item.status != "READY":
            raise VersionNotServable()
        location = str(item.source)
        if "://" not in location or location.startswith(("models:", "runs:")):
            location = self._tracking.client.get_model_version_download_uri(item.name, str(item.version))
        if folder := local_folder(location):
            return read_contents(folder)
        from mlflow.artifacts import download_artifacts

        with tempfile.TemporaryDirectory(prefix="dspy-demo-mlmodel-") as temporary:
            download_artifacts(
                artifact_uri=f"{location.rstrip('/')}/MLmodel",
                dst_path=temporary,
                tracking_uri=self._tracking.uri,
            )
            return read_contents(Path(temporary))


def _all_models(client: MlflowClient) -> list[RegisteredModel]:
    models: list[RegisteredModel] = []
    token: str | None = None
    while page := client.search_registered_models(page_token=token):
        models += page
        token = page.token
        if not token:
            break
    return models


def _identity(item: ModelVersion) -> tuple[str, str, str]:
    return item.name, str(item.version), str(item.source)


def _existing(find: Callable[[], ModelVersion], reference: str) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    try:
        return find()
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            raise VersionNotFound(f"MLflow has no version {reference[:150]}.") from error
        raise


def _aliases(model: RegisteredModel) -> dict[str, tuple[str, ...]]:
    """Aliases by version; a search does not fill them in on the versions themselves (mlflow 3.17)."""
    found: dict[str, tuple[str, ...]] = {}
    for alias, version in sorted(model.aliases.items()):
        found[str(version)] = (*found.get(str(version), ()), alias)
    return found


def _champion(model: RegisteredModel) -> int | None:
    version = model.aliases.get(CHAMPION)
    return int(version) if version else None


def _quoted(name: str) -> str:
    return f'"{name}"' if "'" in name else f"'{name}'"
