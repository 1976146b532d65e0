"""HTML from Jinja2 templates, with every value escaped."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2


def draw(package: str, template: str, **values: Any) -> str:
    """The HTML of `template`, a file in the folder ``templates`` of `package`.

    Args:
        package: The package beside whose code the template stands, such as ``"dspy_demo.ui"``.
        template: The file's name.
        values: What the template shows. Each is escaped; a missing one is an error.
    """
    return _environment(package).get_template(template).render(**values)


@cache
def _environment(package: str) -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
