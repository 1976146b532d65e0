"""The tunnel program (Gradio's frpc): the user's own, the one that is there, or a fresh download."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import httpx

from dspy_demo.errors import ShareFailed
from dspy_demo.share.gradio_service import GradioService
from dspy_demo.share.share_server import replacing

#: Several times what the real one has; a download without end must not fill the disk.
DOWNLOAD_MAX_BYTES = 100_000_000
_BY_HAND = "Copy it to this machine and name it with --share-binary."
NOT_DOWNLOADED = f"The tunnel program could not be downloaded. Try again, or get it elsewhere. {_BY_HAND}"
DAMAGED = f"The tunnel program that was downloaded is not the one that Gradio published. {_BY_HAND}"
NO_PROGRAM = f"Gradio has no tunnel program for this kind of machine. Build frpc from its source. {_BY_HAND}"


def own_program(path: Path) -> Path:
    """The one of ``--share-binary``.

    Raises:
        ShareFailed: It cannot be run.
    """
    if not path.is_file():
        raise ShareFailed(f"There is no tunnel program at {path} (--share-binary).")
    if not os.access(path, os.X_OK):
        raise ShareFailed(f"The tunnel program {path} is not executable. Allow it with chmod +x.")
    return path


async def gradio_program(
    client: httpx.AsyncClient, service: GradioService, folder: Path, progress: Callable[[str], None]
) -> Path:
    """Gradio's own program, with the checksum that Gradio published, wherever it comes from.

    Gradio checks a download only after it has put it in place, and never again (6.31), so that a damaged
    one stays; here it is passed over.

    Args:
        folder: Where a download goes.

    Raises:
        ShareFailed: There is none for this machine, or it could not be downloaded.
    """
    if not service.program_sha256:
        raise ShareFailed(NO_PROGRAM)
    downloaded = folder / service.program_path.name
    for path in (service.program_path, downloaded):
        if await asyncio.to_thread(_is_sound, path, service.program_sha256):
            return path
    progress("Downloading the tunnel")
    checksum, size = hashlib.sha256(), 0
    try:
        async with client.stream("GET", service.program_url) as reply:
            if reply.status_code != 200:
                raise ShareFailed(NOT_DOWNLOADED)
            length = reply.headers.get("content-length", "")
            expected = int(length) if length.isdecimal() else 0
            with replacing(downloaded, mode=0o700) as file:
                async for chunk in reply.aiter_bytes():
                    size += len(chunk)
                    if size > DOWNLOAD_MAX_BYTES:
                        raise ShareFailed(DAMAGED)
                    file.write(chunk)
                    checksum.update(chunk)
                    if expected:
                        progress(f"Downloading the tunnel, {min(100, size * 100 // expected)} %")
                if checksum.hexdigest() != service.program_sha256:
                    raise ShareFailed(DAMAGED)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ShareFailed(NOT_DOWNLOADED) from error
    return downloaded


def _is_sound(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as file:
            return os.access(path, os.X_OK) and hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False
