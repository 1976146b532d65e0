"""What tests and the processes they start may see of this machine: nobody's keys or caches, no network."""

import contextlib
import ipaddress
import re
import socket

_SCRUBBED = re.compile(
    r".*_API_(KEY|BASE|TOKEN)|.*_BASE_URL"
    r"|(OPENAI|OLLAMA|MLFLOW|DSPY|HF|HUGGINGFACE|HUGGING_FACE|GRADIO|AWS|AZURE|SPACE)_.*"
    r"|(HTTP|HTTPS|ALL|NO|FTP)_PROXY|PYTHONWARNINGS|GOOGLE_APPLICATION_CREDENTIALS",
    re.IGNORECASE,
)


def scrubbed(environ, home):
    """`environ` without what could reach a provider or steer a library, and with `home` as its home."""
    kept = {name: value for name, value in environ.items() if not _SCRUBBED.fullmatch(name)}
    return kept | {
        "HOME": str(home),
        "DSPY_CACHEDIR": str(home / "dspy-cache"),
        "LITELLM_LOCAL_MODEL_COST_MAP": "true",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def address_of(host):
    """The address that is written so, if it is one."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else str(host))
    return None


def is_loopback(host):
    address = address_of(host)
    return address.is_loopback if address else host in (None, "", "localhost", b"localhost")


def refuse_other_hosts(monkeypatch):
    """Guard `socket`, and with it asyncio, httpx, requests and urllib. Returns the hosts refused so far."""
    refused = []

    def guard(owner, name, host_of):
        real = getattr(owner, name)

        def guarded(first, *args, **options):
            host = host_of(first, *args)
            if not is_loopback(host):
                refused.append(str(host))
                raise OSError(f"tests must not leave this machine: {host}")
            return real(first, *args, **options)

        monkeypatch.setattr(owner, name, guarded)

    for name in ("connect", "connect_ex"):
        guard(socket.socket, name, lambda own, to: None if own.family == socket.AF_UNIX else to[0])
    guard(socket, "getaddrinfo", lambda host, *_: None if address_of(host) else host)  # no lookup
    return refused
