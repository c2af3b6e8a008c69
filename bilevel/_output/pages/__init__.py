"""Self-contained HTML pages: templates that stand beside this file, with one style and one script for all of them."""

from typing import Any


def render(template: str, **values: Any) -> str:
    """The page as text; the values are escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("bilevel._output.pages", "."), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template(template).render(**values)
