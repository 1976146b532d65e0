"""Which share server the tunnel goes to: the user's own, or one that Gradio names."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal
from urllib.parse import urlsplit

import httpx

from dspy_demo.errors import ShareFailed
from dspy_demo.settings import Settings
from dspy_demo.share.gradio_service import LINK_LASTS_S

#: A server's name and certificate are 2 KB; what is much longer is something else.
ANSWER_MAX_BYTES = 100_000
_TRY = "Check the internet connection and try again, or name a server of your own with --share-server."
UNREACHABLE = f"Gradio's share service cannot be reached from here. {_TRY}"
NOT_UNDERSTOOD = f"Gradio's share service gave an answer that names no share server. {_TRY}"


@dataclass(frozen=True, slots=True)
class ShareServer:
    """A server of public links.

    Attributes:
        certificate: Of its own certificate authority; None for a way without TLS.
        protocol: The scheme of its public links, whatever the tunnel program prints.
        lasts_s: How long its links last; None where nobody knows.
    """

    host: str
    port: int
    certificate: Path | None
    protocol: Literal["http", "https"]
    lasts_s: float | None


def own_server(settings: Settings) -> ShareServer | None:
    """The one of ``--share-server``.

    Raises:
        ShareFailed: Its certificate is not there.
    """
    if settings.share_server is None:
        return None
    certificate = settings.share_server_certificate
    if certificate is not None and not certificate.is_file():
        raise ShareFailed(f"There is no certificate at {certificate} (--share-server-certificate).")
    host, _, port = settings.share_server.rpartition(":")
    return ShareServer(host, int(port), certificate, settings.share_server_protocol, None)


async def gradio_server(client: httpx.AsyncClient, api_url: str, folder: Path) -> ShareServer:
    """Ask Gradio for a server; its certificate is written into `folder`.

    Raises:
        ShareFailed: There is no answer, or not one that names a server.
    """
    try:
        async with client.stream("GET", api_url) as reply:
            if reply.status_code != 200:
                raise ShareFailed(
                    f"Gradio's share service refused the request (HTTP {reply.status_code}). {_TRY}"
                )
            body = b""
            async for chunk in reply.aiter_bytes():
                body += chunk
                if len(body) > ANSWER_MAX_BYTES:
                    raise ShareFailed(NOT_UNDERSTOOD)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ShareFailed(UNREACHABLE) from error
    host, port, certificate = _named_server(body)
    path = folder / "certificate.pem"
    with replacing(path) as file:
        file.write(certificate.encode())
    return ShareServer(host, port, path, "https", LINK_LASTS_S)


def _named_server(body: bytes) -> tuple[str, int, str]:
    try:
        first = json.loads(body)[0]
        host, port, certificate = first["host"], int(first["port"]), first["root_ca"]
        # They become a part of a command and a file.
        if re.fullmatch(r"[A-Za-z0-9][\w.-]*", host) and 0 < port < 65536 and "BEGIN CERT" in certificate:
            return host, port, certificate
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ShareFailed(NOT_UNDERSTOOD) from error
    raise ShareFailed(NOT_UNDERSTOOD)


def public_url(printed: str, server: ShareServer) -> str:
    """The link as visitors need it: the tunnel program does not know whether there is TLS before the server.

    Raises:
        ShareFailed: It is none.
    """
    try:
        parts = urlsplit(printed)
        named = parts.scheme in {"http", "https"} and parts.hostname
    except ValueError:
        named = None
    if not named:
        raise ShareFailed("The share server gave a link that is not a web address. Try again.")
    return parts._replace(scheme=server.protocol).geturl()


@contextmanager
def replacing(path: Path, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when the block has succeeded, and else is gone.

    Raises:
        ShareFailed: The data folder cannot be written to.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
            temporary = Path(file.name)
            yield file
        temporary.chmod(mode)
        temporary.replace(path)
    except OSError as error:
        raise ShareFailed(f"The data folder cannot be written to: {path.parent}.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
