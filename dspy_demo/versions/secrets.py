"""What must not travel with a version. Language models are cleaned (`cleaned_lm`), then files are searched
(`search_files`) for each secret that this process knows, what was cleaned away, and what looks like a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from pydantic import SecretStr

from dspy_demo.errors import VersionNotLogged
from dspy_demo.events import LMChoice
from dspy_demo.lm.providers import keys_of_others
from dspy_demo.settings import ENV_PREFIX, Settings, flag_name

if TYPE_CHECKING:
    import dspy

_OUR_SECRETS = {ENV_PREFIX + name for name in ("OWNER_TOKEN", "GUEST_TOKEN", "GUEST_PASSWORD", "API_KEY")}
#: A shorter value is no secret, as it would be found in any text; nor is a shorter value of a variable.
SECRET_MIN_CHARS, VARIABLE_MIN_CHARS = 8, 12
_VARIABLE_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
#: What is taken out of a language model and out of a URL's query, by name.
_REMOVED_NAME = re.compile(
    r"(api|access|secret|private|subscription|account)[_-]?key|^key$|secret|passw|credential|auth|cookie"
    r"|headers?$|(^|[_-])(token|sig|signature|code)$|^user$|organi[sz]ation|tenant|^account",
    re.IGNORECASE,
)
#: Under such a name a text is taken for a secret. Narrower: a program's field may be named “code”.
_SECRET_NAME = re.compile(
    r"(api|access|secret|private|subscription|account|auth)[_-]?key$|secret$|pass(wor)?d$|passphrase$"
    r"|credentials?$|authorization$|(^|[_-])(auth|token|cookie)$|[a-z](Token|Password|Secret)$",
    re.IGNORECASE,
)
#: A value that is none: an address, a path, a number, a name in a program or of a variable.
_NO_SECRET = re.compile(
    r".*://.*|[~.]{1,2}/.*|/.*/.*|[\d.,_+-]+|[a-z]+(_[a-z]+)+|[A-Z][A-Z0-9]*(_[A-Z0-9]+)+"
)
_SCHEME = re.compile("^(Bearer|Basic) ")
_PLACEHOLDER = re.compile(
    r"\$?\{.*\}|\$\w+|<.*>|[*.x•-]+|\[.*\]|(sk-)?(no|your)[-_](api[-_])?key.*|not[-_]needed|dummy([-_]?key)?"
    r"|placeholder|change[-_]?me|lm-studio|unused|passw(or)?d|secret",
    re.IGNORECASE,
)
#: How the keys of well-known providers look.
_LOOKS_LIKE_KEY = re.compile(
    rb"\b(sk-(proj-|ant-|or-)?[A-Za-z0-9_-]{32,}|AIza[A-Za-z0-9_-]{35}|gsk_[A-Za-z0-9]{40,}|hf_[A-Za-z0-9]{30,}"
    rb"|xai-[A-Za-z0-9]{60,}|gh[pousr]_[A-Za-z0-9]{36}|AKIA[A-Z0-9]{16})\b"
)
#: ``api_key="…"``, ``"X-Api-Key": "…"``, ``environ["MY_TOKEN"] = "…"``. All that repeats has a bound, so that
#: a search takes time in proportion to the file.
_NAMED_TEXT = re.compile(
    rb"""(?<![\w-])([\w-]{1,80})["']?\]?\s{0,20}(?::\s{0,20}[\w.]{1,40}\s{0,20})?[:=]\s{0,20}[bru]?"""
    rb"""["']((?:Bearer |Basic )?[^"'\s]{8,1000})["']"""
)
_URL_USER = re.compile(
    rb"""(?<![a-z0-9+.-])[a-z][a-z0-9+.-]{0,20}://([^\s/@:"'<>{}]{0,500})(?::([^\s/@"'<>{}]{1,500}))?@""",
    re.IGNORECASE,
)
_URL_QUERY = re.compile(rb"""[?&]([\w-]{1,80})=([^\s&"'#<>{}]{8,1000})""")


def public_url(url: str | None) -> str | None:
    """`url` without user, password, fragment and query parameters that are named like keys."""
    if not url:
        return None
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    query = [(name, value) for name, value in parse_qsl(parts.query) if not _REMOVED_NAME.search(name)]
    return urlunsplit((parts.scheme, host, parts.path, urlencode(query), ""))


def version_environment(
    environ: Mapping[str, str], models: Iterable[str], added: Iterable[str] = ()
) -> dict[str, str]:
    """Our environment with `added`, without our secrets and keys of providers that `models` do not call."""
    withheld = (_OUR_SECRETS | keys_of_others(models)) - set(added)
    return {name: value for name, value in environ.items() if name not in withheld}


def known_secrets(
    settings: Settings, choice: LMChoice, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Every secret that this process was given, each with a name that may be shown."""
    found = {
        value: f"the value of {variable}"
        for variable, value in (environ or {}).items()
        if _VARIABLE_NAME.search(variable) and len(value) >= VARIABLE_MIN_CHARS
        if not _NO_SECRET.fullmatch(value) and value not in choice.model
    }
    keys = {**settings.provider_keys, "the typed key": choice.api_key}
    given = {flag_name(field): value for field, value in settings} | keys | {"the model": choice.api_base}
    for name, value in given.items():
        if isinstance(value, SecretStr):
            found[value.get_secret_value()] = f"the value of {name}"
        elif isinstance(value, str):
            found |= dict.fromkeys(_url_secrets(value), f"a credential in the address of {name}")
    long = (value for value in found if len(value) >= SECRET_MIN_CHARS)
    return {value: found[value] for value in long if not _PLACEHOLDER.fullmatch(value)}


def _url_secrets(url: str | None) -> Iterator[str]:
    parts = urlsplit(url or "")
    if parts.password:
        yield from {parts.password, unquote(parts.password)}
    elif parts.username:  # a token alone, as in https://TOKEN@host
        yield parts.username
    yield from (value for name, value in parse_qsl(parts.query) if _REMOVED_NAME.search(name))


def _is_secret(name: str, value: Any) -> bool:
    """Whether a value is a secret by its name and its form."""
    if isinstance(value, SecretStr):
        return bool(value.get_secret_value())
    if not isinstance(value, str) or not _SECRET_NAME.search(name):
        return False
    text = _SCHEME.sub("", value)
    # ``token = "question"`` is no secret; ``password = "question"`` may be one.
    word = text.isalpha() and len(text) < 12 and not re.search("pass|secret", name, re.IGNORECASE)
    none = word or re.search(r"\s", text) or _NO_SECRET.fullmatch(text) or _PLACEHOLDER.fullmatch(text)
    return len(text) >= SECRET_MIN_CHARS and not none


def secret_held(value: Any) -> str | None:
    """A phrase for the user where a part of a program, also a pair as of headers, is a secret by its name."""
    pairs = value.items() if isinstance(value, Mapping) else [value] if isinstance(value, tuple) else ()
    for pair in pairs:
        if len(pair) == 2 and isinstance(pair[0], str) and _is_secret(*pair):
            return f"a value named “{pair[0][:60]}” that the program holds"
    return None


def secret_in(data: bytes, secrets: Mapping[str, str]) -> tuple[str, int] | None:
    """A known secret or what looks like one, as a phrase for the user, and at which byte of `data`."""
    for secret, name in secrets.items():
        if (position := data.find(secret.encode())) >= 0:
            return name, position
    return next(_suspects(data), None)


def secret_sentence(found: str) -> str:
    return (
        f"The version would have held {found}, so it was not logged. "
        "Read it from the environment in forward() instead."
    )


def search_files(folder: Path, secrets: Mapping[str, str], *, skipped: Path) -> None:
    """VersionNotLogged where a file holds a secret; `skipped` is the app's own source."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_relative_to(skipped):
            data = path.read_bytes()
            if found := secret_in(data, secrets):
                where, line = path.relative_to(folder).as_posix(), data.count(b"\n", 0, found[1]) + 1
                place = where if path.suffix == ".pkl" else f"{where}, line {line}"
                raise VersionNotLogged(secret_sentence(f"{found[0]}, in {place}"))


def _suspects(data: bytes) -> Iterator[tuple[str, int]]:
    for match in _LOOKS_LIKE_KEY.finditer(data):
        yield "something that looks like an API key", match.start()
    for pattern in (_NAMED_TEXT, _URL_QUERY):
        for match in pattern.finditer(data):
            name, text = (part.decode("utf-8", "replace") for part in match.groups())
            if _is_secret(name, text):
                yield f"a text named “{name[:60]}”", match.start()
    for match in _URL_USER.finditer(data):
        text = (match[2] or match[1]).decode("utf-8", "replace")
        # In ``https://NAME@host`` a long name is a token.
        if len(text) >= (6 if match[2] else 16) and not _PLACEHOLDER.fullmatch(text):
            yield "an address with a password", match.start()


def cleaned_lm(lm: dspy.LM) -> tuple[dspy.LM, dict[str, str]]:
    """A copy of a model without keys, headers, account, history and callbacks; and what was taken out, to be
    searched for in the files: the source that made the model may hold it.
    """
    clean, removed = lm.copy(), dict[str, str]()
    clean.history, clean.callbacks = [], []
    for name, value in list(vars(clean).items()):
        if isinstance(value, str | dict) and name != "model":
            setattr(clean, name, _cleaned(name, value, removed))
    return clean, {value: name for value, name in removed.items() if len(value) >= SECRET_MIN_CHARS}


def _cleaned(name: str, value: Any, removed: dict[str, str]) -> Any:
    place = f"“{name}” of a language model that the program holds"
    if isinstance(value, Mapping):
        clean = {key: _cleaned(str(key), inner, removed) for key, inner in value.items()}
        return {key: inner for key, inner in clean.items() if not _REMOVED_NAME.search(str(key))}
    if not isinstance(value, str):
        return value
    if _REMOVED_NAME.search(name):
        if not _PLACEHOLDER.fullmatch(value):
            removed[_SCHEME.sub("", value)] = place
        return None
    if "://" in value:
        removed.update((part, place) for part in _url_secrets(value))
        return public_url(value)
    return value
