"""The hub: where a file is, and what its answers mean in one sentence.

A file is at ``HUB/REPO/resolve/REVISION/FILE``, which answers with a redirect to where it is stored. With the
redirect comes what the hub knows of the file: ``X-Linked-Etag`` (its SHA-256, quoted) and ``X-Linked-Size``.
"""

from __future__ import annotations

import asyncio
from urllib.parse import quote, urlsplit

import httpx

from dspy_demo.errors import DownloadFailed
from dspy_demo.lm.local_models.known import KnownModel

#: Answers to HEAD from mirrors that only know GET.
_NO_HEAD = {405, 501}


def url_of(hub_url: str, model: KnownModel) -> str:
    """The address of the model's file on this hub."""
    path = f"{model.repo}/resolve/{model.revision}/{model.file}"
    return f"{hub_url.rstrip('/')}/{quote(path)}"


async def probe(client: httpx.AsyncClient, url: str, model: KnownModel, probe_s: float) -> None:
    """Ask the hub for the file's particulars, so that a hopeless download fails at once.

    Raises:
        DownloadFailed: Nobody answers within `probe_s` seconds, or it is not this file that would come.
    """
    try:
        # httpx's limits are per operation; the probe promises a total.
        async with asyncio.timeout(probe_s):
            reply = await client.head(url, follow_redirects=False)
    except (TimeoutError, httpx.HTTPError) as error:
        raise DownloadFailed(
            f"{host_of(url)} cannot be reached. Check the network, or name a mirror with --hub-url."
        ) from error
    if reply.status_code in _NO_HEAD:
        return
    check_status(reply, model)
    size = reply.headers.get("x-linked-size") or (
        reply.headers.get("content-length") if reply.status_code == 200 else None
    )
    etag = reply.headers.get("x-linked-etag", "").removeprefix("W/").strip('"')
    if (size and size != str(model.size_bytes)) or (len(etag) == 64 and etag.lower() != model.sha256):
        raise wrong_file(url, model)


def check_status(reply: httpx.Response, model: KnownModel) -> None:
    """Let answers pass that bring the file or lead to it.

    Raises:
        DownloadFailed: Any other answer, as a sentence.
    """
    host, status = host_of(str(reply.url)), reply.status_code
    if status in {401, 403}:
        raise DownloadFailed(f"{host} does not give {model.title} without an account (HTTP {status}).")
    if status == 404:
        raise DownloadFailed(f"{host} has no {model.file} at the expected commit of {model.repo} (HTTP 404).")
    if status == 429:
        raise DownloadFailed(f"{host} gets too many requests now (HTTP 429). Try again in some minutes.")
    if status >= 400:
        raise DownloadFailed(f"{host} cannot give the file now (HTTP {status}). Try again later.")


def wrong_file(url: str, model: KnownModel) -> DownloadFailed:
    """What to raise where another file would come, or came."""
    return DownloadFailed(
        f"{host_of(url)} does not give the expected {model.file}. A network that asks for a sign-in, or a "
        "mirror that is not up to date, may be in between."
    )


def host_of(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]
