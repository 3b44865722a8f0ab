"""A view of the dashboard as one HTML file that asks for nothing: what was looked at, and what was found."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

_STYLE = """
:root { color-scheme: light dark; }
body { font: 14px/1.5 Roboto, "Helvetica Neue", Arial, sans-serif; max-width: 980px; margin: 32px auto; padding: 0 20px;
  color: #1b1f24; background: #fff; }
h1 { font-size: 24px; margin: 0; } h2 { font-size: 16px; margin: 32px 0 8px; }
.muted { color: #5b6470; } .num { font-variant-numeric: tabular-nums; }
figure { margin: 16px 0; } figure img { width: 100%; border: 1px solid #e3e6ea; border-radius: 8px; background: #fff; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; font-weight: 600; color: #5b6470; }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid #e3e6ea; vertical-align: middle; overflow-wrap: anywhere; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td img, .strip img { width: 56px; height: 56px; object-fit: contain; border-radius: 6px; display: block; }
img.px { image-rendering: pixelated; } .columns { display: grid; grid-template-columns: 1fr 1fr; gap: 0 40px; }
.strip { display: flex; flex-wrap: wrap; gap: 6px; } .strip img { width: 72px; height: 72px; }
code { overflow-wrap: anywhere; }
.card { border: 1px solid #e3e6ea; border-radius: 8px; padding: 12px 14px; margin: 10px 0; }
@media (max-width: 720px) { .columns { grid-template-columns: 1fr; } }
@media (prefers-color-scheme: dark) { body { color: #e8eaed; background: #101317; } .muted, th { color: #9aa3ae; }
  th, td, .card, figure img { border-color: #2b3138; } a { color: #8ea6ff; } }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What the file may load: nothing but the pictures within; and nothing in it may run."""


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
    shown = f'src="{_address(report.map_png)}" alt="{escape(report.map_text, quote=True)}"'
    parts = [
        f"<h1>{escape(report.title)}</h1>",
        f'<p class="muted">{escape(report.subtitle)}</p>',
        f"<p>{' · '.join(_link(text, address) for text, address in report.links.items())}</p>",
        f'<figure><img {shown}><figcaption class="muted">{escape(report.map_text)}</figcaption></figure>',
        _samples(report),
        _generations(report),
        '<div class="columns"><section><h2>Run</h2>',
        _facts(report.run),
        "</section><section><h2>Measures</h2>",
        _facts({name: f"{value:.4g}" for name, value in report.measures.items()}),
        "</section></div><h2>Parameters</h2>",
        _facts(report.parameters),
    ]
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(report.title)}</title><style>{_STYLE}</style></head><body>"
    )
    return (head + "\n".join(part for part in parts if part) + "</body></html>\n").encode("utf-8", "replace")


def _samples(report: Report) -> str:
    if not report.samples:
        return f'<h2>Samples</h2><p class="muted">{escape(report.samples_note or "No sample is selected.")}</p>'
    rows = []
    for sample in report.samples:
        distance = "" if sample.distance is None else f"{sample.distance:.4g}"
        prompt = sample.prompt if sample.prompt != sample.title else ""
        told = f'<br><span class="muted">{escape(prompt)}</span>' if prompt else ""
        rows.append(
            f"<tr><td>{_image(sample.png, sample.sample_id, report.pixelated)}</td><td>{escape(sample.sample_id)}</td>"
            f"<td>{escape(sample.title)}{told}</td><td>{escape(sample.role)}</td>"
            f'<td class="number">{distance}</td></tr>'
        )
    note = f'<p class="muted">{escape(report.samples_note)}</p>' if report.samples_note else ""
    head = '<tr><th>Image</th><th>Sample</th><th>Class, prompt</th><th>Role</th><th class="number">Distance</th></tr>'
    return f"<h2>Samples</h2>{note}<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _generations(report: Report) -> str:
    if not report.generations:
        return ""
    cards = []
    for made in report.generations:
        link = f" · {_link('MLflow run', made.link)}" if made.link else ""
        images = [("Generated", made.pngs), ("Same noise, no mask", made.baseline_pngs)]
        strips = "".join(
            f'<p class="muted">{name}</p><div class="strip">'
            + "".join(_image(png, f"{name} {i + 1}", report.pixelated) for i, png in enumerate(pngs))
            + "</div>"
            for name, pngs in images
            if pngs
        )
        command = f"<p><code>{escape(made.command)}</code></p>" if made.command else ""
        cards.append(
            f'<div class="card"><strong>{escape(made.title)}</strong> <span class="muted">{escape(made.detail)}</span>'
            f"{link}{strips}{command}</div>"
        )
    return f"<h2>Generations of this visit</h2>{''.join(cards)}"


def _facts(facts: Mapping[str, str]) -> str:
    if not facts:
        return '<p class="muted">None.</p>'
    rows = (
        f'<tr><td class="muted">{escape(k)}</td><td class="number">{escape(str(v))}</td></tr>' for k, v in facts.items()
    )
    return f"<table><tbody>{''.join(rows)}</tbody></table>"


def _image(png: bytes, alt: str, pixelated: bool) -> str:
    kind = ' class="px"' if pixelated else ""
    return f'<img{kind} src="{_address(png)}" alt="{escape(alt, quote=True)}">'


def _address(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _link(text: str, address: str) -> str:
    if not address.startswith(("http://", "https://")):
        return f"{escape(text)}: {escape(address)}"
    return f'<a href="{escape(address, quote=True)}" rel="noopener noreferrer">{escape(text)}</a>'
