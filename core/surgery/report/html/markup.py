"""Fill templates: every text in them is cleaned and escaped, whoever wrote it."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from surgery.report.text import clean

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


@cache
def environment() -> Environment:
    """Give the environment of the templates; what is undefined in one is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("surgery.report.html"), autoescape=True, finalize=_finalized,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters["block"] = _block
    return made


def filled(template: str, **values: Any) -> Markup:
    """Fill one template.

    Args:
        template: its name.
        values: what it shows; text is escaped.
    """
    from markupsafe import Markup

    return Markup(environment().get_template(template).render(**values))


@cache
def style() -> Markup:
    """Give the style sheet, as it stands between the tags."""
    from markupsafe import Markup

    loader = environment().loader
    assert loader is not None
    return Markup("\n" + loader.get_source(environment(), "style.css")[0])


def policy() -> str:
    """Give a content security policy that allows one style sheet and nothing else.

    See https://www.w3.org/TR/CSP3/, hashes of inline elements.
    """
    digest = b64encode(sha256(style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _finalized(value: Any) -> Any:
    """Clean a text that is shown; what is markup already stays."""
    return clean(value, line=True) if type(value) is str else value


def _block(text: str) -> Markup:
    """Clean and escape a text of several lines, and keep the lines."""
    from markupsafe import Markup, escape

    return Markup(escape(clean(text)))
