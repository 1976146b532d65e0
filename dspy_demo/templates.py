"""HTML from Jinja2 templates, with every value escaped."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2


def draw(package: str, template: str, **values: Any) -> str:
    """The HTML of a file in the folder ``templates`` of `package`. A value that it lacks is an error."""
    return _environment(package).get_template(template).render(**values)


@cache
def _environment(package: str) -> jinja2.Environment:
    import jinja2

    loader, undefined = jinja2.PackageLoader(package), jinja2.StrictUndefined
    return jinja2.Environment(
        loader=loader, undefined=undefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
