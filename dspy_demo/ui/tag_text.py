"""Tags as somebody types them: ``team=search, tier=2``, or one in a line."""

from __future__ import annotations

import re

from dspy_demo.errors import InvalidInput


def parse_tags(text: str) -> dict[str, str]:
    """The tags in `text`; what a name or a value may be is for `versions` to say.

    A comma only parts two tags where ``key=`` follows, so that a value may hold one.

    Raises:
        InvalidInput: A part has no “=”, or a key comes twice.
    """
    tags: dict[str, str] = {}
    for part in re.split(r"\n|,(?=[^,=\n]*=)", text):
        part = part.strip().strip(",").strip()
        if not part:
            continue
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or not key:
            raise InvalidInput(f"Write the tag “{part[:40]}” as key=value, for example team=search.")
        if key in tags:
            raise InvalidInput(f"The tag “{key[:40]}” is there twice. Keep one of them.")
        tags[key] = value.strip()
    return tags
