"""A view of the dashboard as one HTML file that asks for nothing: what was looked at, and what was found.

`report.html` beside this module is its template.
"""

import base64
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, Template


@dataclass(frozen=True, slots=True)
class ReportedSample:
    """A sample in a report."""

    sample_id: str
    role: str
    """'selected', 'suggested', 'chosen' or 'marked'."""
    title: str
    """Its class or prompt."""
    prompt: str
    png: bytes
    distance: float | None = None
    """To the selected sample."""


@dataclass(frozen=True, slots=True)
class ReportedGeneration:
    """A generation of the visit."""

    title: str
    detail: str
    pngs: tuple[bytes, ...]
    """Its images."""
    baseline_pngs: tuple[bytes, ...] = ()
    """The same noise without the mask, where it was made."""
    link: str | None = None
    command: str = ""
    """Command line that repeats it."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a report tells; every text is plain and is escaped when it is written."""

    title: str
    subtitle: str
    map_png: bytes
    map_text: str
    """What the picture shows, for who does not see it, and below it."""
    run: Mapping[str, str]
    parameters: Mapping[str, str] = field(default_factory=dict)
    measures: Mapping[str, float] = field(default_factory=dict)
    samples: Sequence[ReportedSample] = ()
    samples_note: str = ""
    generations: Sequence[ReportedGeneration] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    """Address by text; only http and https become links."""
    pixelated: bool = False
    """Whether pictures are so small that their pixels are to be seen."""


def report_html(report: Report) -> bytes:
    """Return a report as one HTML file in UTF-8 without scripts, which loads nothing from anywhere."""
    measures = {name: f"{value:.4g}" for name, value in report.measures.items()}
    page = _template().render(report=report, measures=measures)
    return page.encode("utf-8", "replace")


@functools.cache
def _template() -> Template:
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    templates.filters["base64"] = base64_text
    return templates.get_template("report.html")


def base64_text(png: bytes) -> str:
    """Return a picture as an address of data holds it."""
    return base64.b64encode(png).decode()
