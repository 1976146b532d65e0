"""What must not travel with a version: keys, credentials in URLs, and what looks like either.

Three lines of defence: the language model is built without a key (`artifact.portable_lm`), what a
program holds itself is cleaned (`cleaned_lm`), and the finished files are searched for every secret that
this process knows of (`find_secret`) before anything is registered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from dspy_demo.events import LMChoice
from dspy_demo.settings import Settings

if TYPE_CHECKING:
    import dspy

#: Shorter ones, such as the placeholder “none”, are found in any text.
SECRET_MIN_CHARS = 8
_SECRET_NAME = re.compile(
    r"(api|access|secret|private|subscription|account)[_-]?key|^key$|secret|passw|credential|auth|cookie"
    r"|headers?$|(^|[_-])(token|sig|signature|code)$",
    re.IGNORECASE,
)
#: How the keys of well-known providers look; somebody may have written one into a program's source.
_LOOKS_LIKE_KEY = re.compile(
    rb"\b(sk-(proj-|ant-|or-)?[A-Za-z0-9_-]{32,}|AIza[A-Za-z0-9_-]{35}|gsk_[A-Za-z0-9]{40,}|hf_[A-Za-z0-9]{30,}"
    rb"|xai-[A-Za-z0-9]{60,}|gh[pousr]_[A-Za-z0-9]{36}|AKIA[A-Z0-9]{16})\b"
)


def public_url(url: str | None) -> str | None:
    """`url` without user, password, fragment and query parameters that are named like keys."""
    if not url:
        return None
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    query = [(name, value) for name, value in parse_qsl(parts.query) if not _SECRET_NAME.search(name)]
    return urlunsplit((parts.scheme, host, parts.path, urlencode(query), ""))


def known_secrets(settings: Settings, choice: LMChoice) -> dict[str, str]:
    """Every secret that this process was given, by a name that may be shown."""
    named = {name: secret.get_secret_value() for name, secret in settings.provider_keys.items()}
    if settings.api_key:
        named["the key given with --api-key"] = settings.api_key.get_secret_value()
    if choice.api_key:
        named["the key typed for the model"] = choice.api_key.get_secret_value()
    for url in (choice.api_base, settings.api_base, settings.tracking_uri, settings.served_url):
        for secret in _url_secrets(url):
            named[f"a credential of {urlsplit(url or '').hostname}"] = secret
    return {name: secret for name, secret in named.items() if len(secret) >= SECRET_MIN_CHARS}


def _url_secrets(url: str | None) -> Iterable[str]:
    parts = urlsplit(url or "")
    if parts.password:
        yield parts.password
    if parts.username and not parts.password:  # a token alone, as in https://TOKEN@host
        yield parts.username
    yield from (value for name, value in parse_qsl(parts.query) if _SECRET_NAME.search(name))


def secret_in(data: bytes, secrets: Mapping[str, str]) -> str | None:
    """The name of a secret that `data` holds, or None."""
    return next((name for name, secret in secrets.items() if secret.encode() in data), None)


def find_secret(folder: Path, secrets: Mapping[str, str], *, skipped: Path) -> str | None:
    """What was found where, as a phrase for the user, or None.

    Args:
        secrets: Those to look for, beside anything that looks like a well-known provider's key.
        skipped: The app's own source, which nobody writes keys into.
    """
    for path in sorted(_files(folder, skipped)):
        data = path.read_bytes()
        where = path.relative_to(folder).as_posix()
        if name := secret_in(data, secrets):
            return f"{name}, in {where}"
        if _LOOKS_LIKE_KEY.search(data):
            return f"something that looks like an API key, in {where}"
    return None


def _files(folder: Path, skipped: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir():
            if path != skipped:
                yield from _files(path, skipped)
        else:
            yield path


def cleaned_lm(lm: dspy.LM) -> dspy.LM:
    """A copy of a model that a program holds itself, without keys, headers, history and callbacks."""
    clean = lm.copy()
    clean.history, clean.callbacks = [], []
    for name, value in list(vars(clean).items()):
        if isinstance(value, str | dict) and name != "model":
            setattr(clean, name, _cleaned(name, value))
    return clean


def _cleaned(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _cleaned(str(key), inner)
            for key, inner in value.items()
            if not _SECRET_NAME.search(str(key))
        }
    if isinstance(value, str) and _SECRET_NAME.search(name):
        return None
    if isinstance(value, str) and "://" in value:
        return public_url(value)
    return value
