"""Small pieces of HTML about samples and runs; every value that comes from data is escaped."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from diffviews.noise import format_sigma
from panel_app.components import Html
from panel_app.layer_map import LayerMap
from panel_app.points import CLASS, PROMPT, SIGMA, shortened

_NUMBERS = {
    "neighborhood_preservation": "Share of its nearest samples, by activations, that are its nearest on the map too",
    "distance_to_data": "Mean distance to its nearest samples, by activations: large for an outlier",
}


def column_label(column: str) -> str:
    """Return a column's name as people read it."""
    known = {PROMPT: "Prompt", SIGMA: "Noise level σ", "neighborhood_preservation": "Neighbours kept"}
    if column in known:
        return known[column]
    return column.replace("_", " ").capitalize()


def picture(layer_map: LayerMap, address: str, size: int, *, alt: str = "", style: str = "") -> str:
    """Return a picture of a sample, `size` pixels a side; only small ones show their pixels."""
    kind = "px" if layer_map.is_small else "photo"
    return f'<img class="{kind}" src="{address}" alt="{escape(alt)}" width="{size}" height="{size}" style="{style}">'


def hover_card(layer_map: LayerMap, row: int) -> str:
    """Return the card beside a hovered point: picture, class, the beginning of the prompt, id, sigma."""
    sample_id = layer_map.sample_at(row)
    text, prompt = layer_map.text_of(sample_id), layer_map.prompt_of(sample_id)
    below = f'<div class="small clamp">{escape(shortened(prompt, 120))}</div>' if prompt and prompt != text else ""
    return (
        '<div style="display:flex;gap:12px;align-items:center;padding:10px 14px 10px 10px;border-radius:10px;'
        "background:var(--dv-surface);box-shadow:0 4px 18px rgba(0,0,0,.22);border:1px solid var(--dv-faint);"
        'width:max-content;max-width:320px">'
        f'<div style="flex:none">{picture(layer_map, layer_map.thumbnail(sample_id), 72)}</div>'
        f'<div><div class="title">{escape(shortened(text, 120))}</div>{below}'
        f'<div class="muted small">{escape(sample_id)}</div>'
        f'<div class="muted small num">{layer_map.sigma_at(row)}</div></div></div>'
    )


def selected_card(layer_map: LayerMap, sample_id: str) -> str:
    """Return the card of the selected sample, ringed as on the map, with its whole prompt and its numbers."""
    row = layer_map.row_of[sample_id]
    numbers = " · ".join(
        f'<span title="{help}">{column_label(column).lower()} {layer_map.table[column].iloc[row]:.2f}</span>'
        for column, help in _NUMBERS.items()
        if column in layer_map.numeric_columns
    )
    ring = "box-shadow:0 0 0 3px var(--dv-selected);border-radius:8px"
    shown = picture(layer_map, layer_map.thumbnail(sample_id), 96, alt=sample_id, style=ring)
    prompt = layer_map.prompt_of(sample_id)
    whole = f'<p class="whole" style="margin-top:10px">{escape(prompt)}</p>' if prompt else ""
    title = layer_map.text_of(sample_id)
    heading = f'<div class="title" style="font-size:18px;margin:2px 0">{escape(title)}</div>' if title != prompt else ""
    return (
        '<div style="display:flex;gap:14px;align-items:center">'
        f'<div style="flex:none">{shown}</div>'
        '<div><div class="overline" style="color:var(--dv-selected)">Selected</div>'
        f"{heading}"
        f'<div class="muted small">{escape(sample_id)} · {layer_map.sigma_at(row)}</div>'
        f'<div class="muted small">{_values(layer_map, row)}</div>'
        f'<div class="muted small num" style="margin-top:2px">{numbers}</div></div></div>{whole}'
    )


def _values(layer_map: LayerMap, row: int) -> str:
    """Return a sample's values in the extraction's further columns."""
    others = (c for c in layer_map.categorical_columns if c not in (CLASS, PROMPT, SIGMA))
    return " · ".join(f"{escape(column_label(c))} {escape(str(layer_map.table[c].iloc[row]))}" for c in others)


def thumbnail_strip(layer_map: LayerMap, sample_ids: Sequence[str], *, limit: int = 12, size: int = 30) -> str:
    """Return pictures of samples in a row, and how many more there are."""
    shown = "".join(picture(layer_map, address, size) for address in layer_map.thumbnails(sample_ids[:limit]))
    more = f'<span class="muted small">+{len(sample_ids) - limit}</span>' if len(sample_ids) > limit else ""
    return f'<div style="display:flex;flex-wrap:wrap;gap:5px;align-items:center">{shown}{more}</div>'


def run_facts(layer_map: LayerMap) -> dict[str, str]:
    """Return what a map is of, by name."""
    layer = layer_map.layer
    return {
        "Model": str(layer.model or ""),
        "Dataset": str(layer.dataset or ""),
        "Samples": f"{len(layer_map.samples):,}",
        "Layer": layer.layer,
        "σ": format_sigma(layer.sigma),
        "Layer run": layer.run_id,
    }


def facts(rows: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> str:
    """Return a two-column table; numbers are shortened, addresses become links."""
    pairs = rows.items() if isinstance(rows, Mapping) else rows
    shown = ((escape(str(k)), f"{v:.4g}" if isinstance(v, float) else escape(str(v))) for k, v in pairs)
    cells = "".join(f"<tr><td>{name}</td><td class='num'>{value}</td></tr>" for name, value in shown)
    return f'<table class="facts">{cells}</table>'


def link(url: str | None, text: str) -> str:
    """Return a link that opens in a new tab, or nothing without an address."""
    if not url:
        return ""
    return f'<a href="{escape(url, quote=True)}" target="_blank" rel="noopener">{escape(text)} ↗</a>'


def hint_small(text: str) -> str:
    """Return a small quiet sentence."""
    return f'<p class="muted small">{escape(text)}</p>'


def quiet(text: str) -> Html:
    """Return a small quiet sentence as a pane."""
    return Html(hint_small(text), sizing_mode="stretch_width", margin=(2, 0, 4, 0))


def hint(text: str) -> str:
    """Return a quiet sentence."""
    return f'<p class="muted">{escape(text)}</p>'
