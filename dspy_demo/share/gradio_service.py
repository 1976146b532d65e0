"""What Gradio offers for public links: where its API and its tunnel program are.

The one place that knows Gradio's own modules; of them only the addresses and checksums are used. Its
`setup_tunnel` would block, for ever with a silent program, and burn a core with one that has died (6.31).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: “This share link is temporary and will last for up to 1 week (best effort)”: gradio 6.31, blocks.py. The
#: server then tells the tunnel program to exit (`msg.Kill` in huggingface/frp, client/control.go).
LINK_LASTS_S = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class GradioService:
    """Addresses of Gradio's share service.

    Attributes:
        api_url: Names a share server and its certificate.
        program_url: The tunnel program for this kind of machine.
        program_sha256: Its checksum; empty where Gradio has no program for this kind of machine.
        program_path: Where Gradio keeps it, once downloaded.
    """

    api_url: str
    program_url: str
    program_sha256: str
    program_path: Path


def gradio_service() -> GradioService:
    """The addresses that the installed Gradio uses."""
    from gradio.networking import GRADIO_API_SERVER
    from gradio.tunneling import BINARY_PATH, BINARY_URL, CHECKSUMS

    return GradioService(GRADIO_API_SERVER, BINARY_URL, CHECKSUMS.get(BINARY_URL, ""), Path(BINARY_PATH))
