"""Small pieces of HTML about samples and runs; every value that comes from data is escaped."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import panel as pn

from diffviews.noise import format_sigma
from panel_app.data import OpenMap
from panel_app.theme import PANE_CSS


def column_label(column: str) -> str:
    """Return a column's name as people read it."""
    return column.replace("_", " ").replace("neighborhood", "neighbourhood").capitalize()


def hover_card(opened: OpenMap, sample_id: str) -> str:
    """Return the card beside a hovered point: picture, class, id, sigma."""
    return (
        '<div style="display:flex;gap:12px;align-items:center;padding:10px 14px 10px 10px;border-radius:10px;'
        "background:var(--dv-surface);box-shadow:0 4px 18px rgba(0,0,0,.22);border:1px solid var(--dv-faint);"
        'width:max-content;max-width:260px">'
        f'<img class="px" src="{opened.thumbnail(sample_id)}" alt="" width="72" height="72">'
        f'<div><div class="title">{escape(opened.text_of(sample_id))}</div>'
        f'<div class="muted small">{escape(sample_id)}</div>'
        f'<div class="muted small num">σ {format_sigma(opened.layer.sigma)}</div></div></div>'
    )


def selected_card(opened: OpenMap, sample_id: str) -> str:
    """Return the card of the selected sample, ringed as on the map, with its numbers."""
    row = opened.table.iloc[opened.row_of[sample_id]]
    numbers = " · ".join(
        f"{label} {row[column]:.2f}"
        for column, label in (
            ("neighborhood_preservation", "neighbours kept"),
            ("distance_to_data", "distance to data"),
        )
        if column in opened.numeric_columns
    )
    return (
        '<div style="display:flex;gap:14px;align-items:center">'
        f'<img class="px" src="{opened.thumbnail(sample_id)}" alt="{escape(sample_id)}" width="96" height="96"'
        ' style="box-shadow:0 0 0 3px var(--dv-selected);border-radius:8px">'
        f'<div><div class="overline" style="color:var(--dv-selected)">Selected</div>'
        f'<div class="title" style="font-size:18px;margin:2px 0">{escape(opened.text_of(sample_id))}</div>'
        f'<div class="muted small">{escape(sample_id)} · σ {format_sigma(opened.layer.sigma)}</div>'
        f'<div class="muted small num" style="margin-top:2px">{numbers}</div></div></div>'
    )


def thumbnail_strip(addresses: Iterable[str], *, limit: int = 12, size: int = 30) -> str:
    """Return pictures in a row, and how many more there are."""
    pictures = list(addresses)
    shown = "".join(f'<img class="px" src="{a}" alt="" width="{size}" height="{size}">' for a in pictures[:limit])
    more = f'<span class="muted small">+{len(pictures) - limit}</span>' if len(pictures) > limit else ""
    return f'<div style="display:flex;flex-wrap:wrap;gap:5px;align-items:center">{shown}{more}</div>'


def facts(rows: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> str:
    """Return a two-column table; numbers are shortened, addresses become links."""
    pairs = rows.items() if isinstance(rows, Mapping) else rows
    cells = "".join(f"<tr><td>{escape(str(k))}</td><td class='num'>{_shown(v)}</td></tr>" for k, v in pairs)
    return f'<table class="facts">{cells}</table>'


def link(url: str | None, text: str) -> str:
    """Return a link that opens in a new tab, or nothing without an address."""
    if not url:
        return ""
    return f'<a href="{escape(url, quote=True)}" target="_blank" rel="noopener">{escape(text)} ↗</a>'


def quiet(text: str) -> pn.pane.HTML:
    """Return a small quiet sentence as a pane."""
    return pn.pane.HTML(
        f'<p class="muted small">{escape(text)}</p>',
        stylesheets=[PANE_CSS],
        sizing_mode="stretch_width",
        margin=(2, 0, 4, 0),
    )


def hint(text: str) -> str:
    """Return a quiet sentence."""
    return f'<p class="muted">{escape(text)}</p>'


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return escape(str(value))
