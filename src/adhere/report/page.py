"""Pages that are complete in themselves: style, scripts and data in one file that needs no network.

Everything that comes from a run is escaped by Jinja2, and the page's content security policy names the two scripts it
may run by their digests: text that a model wrote cannot become code, even if escaping failed. Characters that are not seen
(control characters, marks that turn the text round) are written as their escapes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from adhere.report.figures import Figure
from adhere.report.tables import Table

# Control characters but tab and line feed; zero-width and bidirectional marks; line and paragraph separators; halves of
# characters. The joiners U+200C and U+200D belong to how Persian, Hindi and emoji are written.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page: sentences, figures, tables, and tables that are folded away."""

    key: str
    title: str
    sentences: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    folded: Sequence[tuple[str, Table]] = ()  # what they are called until they are opened
    rows_are: str = "model"


@dataclass(frozen=True, slots=True)
class Page:
    """A page of figures and tables."""

    brand: str
    name: str
    headline: Sequence[str]
    date: str
    command: str
    remarks: Sequence[str] = ()  # what a reader must know before believing a number
    sections: Sequence[Section] = field(default_factory=tuple)


def render_page(page: Page) -> str:
    """The page as text."""
    return fill("page.html.j2", has_figures=any(section.figures for section in page.sections), page=page)


def fill(template: str, *, has_figures: bool, **values: object) -> str:
    """A template filled in; style and scripts are part of the text, Plotly only where there is something to draw."""
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("adhere.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_seen,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = _unbroken
    own_script = _source(environment, "report.js")
    plotly = get_plotlyjs() if has_figures else ""
    return environment.get_template(template).render(
        **values,
        style=Markup(_source(environment, "report.css")),
        own_script=Markup(own_script),
        plotly=Markup(plotly),
        script_digests=[_digest(script) for script in (own_script, plotly) if script],
    )


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _digest(script: str) -> str:
    """The script as a content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _seen(value: object) -> object:
    """A text with every character that would not be seen, or would move others, as its escape."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), value)


def _unbroken(sentence: str) -> str:
    """A sentence whose numbers stay on one line with their unit and interval."""
    return re.sub(r"(?<=\d) (?=%|to \d)|(?<=\d to) (?=\d)|(?<=%) (?=\()", "\N{NO-BREAK SPACE}", sentence)
