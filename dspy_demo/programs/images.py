"""Images as inputs: what a form, a client or a paste gives, as a `dspy.Image`.

Nothing is ever fetched here. An image comes whole, as a ``data:`` URL that the browser or the client made, so
no file is uploaded or stored; an address goes on to the model's provider as it was written. Guests may send
no address: the model's server would fetch it, which often stands in the owner's own network, and a name that
is public when we look it up may lead to a private address when the server does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dspy_demo.errors import InputTooLong, InvalidInput

if TYPE_CHECKING:
    from dspy_demo.programs.spec import ProgramSpec

#: Length of a ``data:`` URL; `page.js` makes a picture smaller until it fits. About 100 kB as a file.
IMAGE_MAX_CHARS = 150_000
_DATA = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}")
_ADDRESS = re.compile(r"https?://[^\s/@]+(/\S*)?")


def image_url(raw: Any) -> str:
    """The URL of an image as somebody sent it: a text, or ``{"url": ...}`` as OpenAI's clients do.

    Raises:
        InvalidInput: It is no image.
        InputTooLong: It is too large.
    """
    url = raw["url"] if isinstance(raw, Mapping) and set(raw) == {"url"} else raw
    if isinstance(url, str):
        url = url.strip()
        if len(url) > IMAGE_MAX_CHARS:
            raise InputTooLong(
                f"An image may have {IMAGE_MAX_CHARS:,} characters as a data URL. Make it smaller."
            )
        if _DATA.fullmatch(url) or _ADDRESS.fullmatch(url):
            return url
    raise InvalidInput(
        "This is no image: send a PNG, JPEG, GIF or WebP as a data URL, or an http(s) address."
    )


def is_address(url: str) -> bool:
    """Whether the image itself is not in the URL."""
    return not url.startswith("data:")


def image_chars(inputs: Mapping[str, Any], names: Iterable[str]) -> int:
    """How much of the inputs with these names is images, which have a limit of their own."""
    given = [str(inputs.get(name) or "") for name in names]
    return sum(len(text) for text in given if "data:image/" in text[:40])


def image_fields(spec: ProgramSpec) -> list[str]:
    """The names of the inputs that are images."""
    return [field.name for field in spec.inputs if field.kind == "image"]


def check_images(spec: ProgramSpec, inputs: Mapping[str, Any], *, guest: bool) -> None:
    """Refuse what is no image, and a guest's address.

    Raises:
        InvalidInput: One of them is not as it may be.
    """
    for name in image_fields(spec):
        raw = inputs.get(name)
        if raw not in (None, "") and is_address(image_url(raw)) and guest:
            raise InvalidInput("Guests send an image as a file or a paste, not as an address.")
