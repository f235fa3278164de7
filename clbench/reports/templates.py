"""The HTML pages: templates with one style and one script within each page, and a content policy that forbids everything else.

Every text is escaped by the templates; a page loads nothing. The policy names the digests of our own style and script, so that
nothing else runs, whatever a record says.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from clbench.reports.tables import Cell


def render(name: str, **values: Any) -> str:
    """Return a page made from a template."""
    return _environment().get_template(name).render(values)


@cache
def _environment() -> Environment:
    found = Environment(
        loader=FunctionLoader(_read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style, script = _read("style.css"), _read("script.js")
    allowed = f"img-src data:; style-src {_digest(style)}; script-src {_digest(script)}"
    policy = f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
    found.globals |= {
        "cell": lambda one: Cell(one) if isinstance(one, str) else one,
        "style": Markup(style),
        "script": Markup(script),
        "policy": Markup(policy),
    }
    return found


def _read(name: str) -> str:
    return files("clbench.reports").joinpath("templates", name).read_text("utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
