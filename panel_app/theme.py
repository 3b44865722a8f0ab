"""Colours, type and spacing of the dashboard, for light and dark pages alike."""

from collections.abc import Sequence
from typing import Any

from bokeh.palettes import interp_palette

from diffviews.processing.palette import UNLABELLED, class_colours

SELECTED = "#2f6fed"
"""Ring of the selected sample."""

NEIGHBOUR = "#e5484d"
"""Rings of neighbours: thin for suggested, thick for chosen by hand."""

PATHS = ("#0f9d8a", "#c2710c", "#a44ee0", "#7a8f12", "#d946a0", "#96624a")
"""Denoising paths with the mask, one a generation: none like a ring or the path without the mask."""

PATH = PATHS[0]
"""Denoising path where there is but one."""

BASELINE_PATH = "#8a8f98"
"""Denoising path of the same noise without the mask."""

SEQUENTIAL = ("#3b2a78", "#3f5fa8", "#2f8f9d", "#4db380", "#a9cf54", "#f7e04b")
"""Continuous columns, low to high; perceptually ordered and readable on both pages."""

FONT = "Roboto, 'Helvetica Neue', Arial, sans-serif"


def category_colours(categories: Sequence[str], unlabelled: str) -> dict[str, str]:
    """Return a colour for each category; the category named `unlabelled` is grey."""
    named = [name for name in categories if name != unlabelled]
    colours = dict(zip(named, class_colours(len(named)), strict=True))
    return {name: colours.get(name, UNLABELLED) for name in categories}


def ordered_colours(categories: Sequence[str]) -> dict[str, str]:
    """Return a colour for each category along the scale of numbers, in their order."""
    return dict(zip(categories, interp_palette(SEQUENTIAL, max(len(categories), 2)), strict=False))


def _palette(mode: str, **colours: Any) -> dict[str, Any]:
    return {
        "palette": {"mode": mode, **colours},
        "shape": {"borderRadius": 8},
        "typography": {
            "fontFamily": FONT,
            "fontSize": 13,
            "button": {"textTransform": "none", "fontWeight": 500, "letterSpacing": 0},
        },
        "components": {
            "MuiButton": {"defaultProps": {"disableElevation": True}},
            "MuiTab": {"styleOverrides": {"root": {"minHeight": 40, "minWidth": 0, "padding": "6px 14px"}}},
            # Tabs that were hidden once would keep the buttons, which take the last tab's room.
            "MuiTabs": {"styleOverrides": {"root": {"minHeight": 40}, "scrollButtons": {"display": "none"}}},
        },
    }


THEME_CONFIG: dict[str, Any] = {
    "light": _palette(
        "light",
        primary={"main": "#3457d5"},
        background={"default": "#f5f6f8", "paper": "#ffffff"},
        text={"primary": "#1b1f24", "secondary": "#5b6470"},
        divider="#e3e6ea",
    ),
    "dark": _palette(
        "dark",
        primary={"main": "#8ea6ff"},
        background={"default": "#101317", "paper": "#181c21"},
        text={"primary": "#e8eaed", "secondary": "#9aa3ae"},
        divider="#2b3138",
    ),
}

PAGE_SX: dict[str, Any] = {
    ".MuiAppBar-root": {
        "backgroundColor": "background.paper",
        "color": "text.primary",
        "boxShadow": "none",
        "borderBottom": "1px solid",
        "borderColor": "divider",
        "backgroundImage": "none",
    },
    ".MuiAppBar-root .MuiToolbar-root": {"minHeight": "52px"},
    ".MuiAppBar-root .MuiTypography-root, .MuiAppBar-root a": {
        "color": "text.primary",
        "fontSize": "18px",
        "fontWeight": 700,
        "letterSpacing": "-0.01em",
    },
    ".MuiDrawer-paper": {"backgroundColor": "background.paper", "borderColor": "divider"},
    "main": {"backgroundColor": "background.default"},
}
"""Quiet chrome: the pictures carry the colour."""

ONE_LINE: dict[str, Any] = {".MuiToggleButton-root": {"whiteSpace": "nowrap"}}
"""For buttons side by side that are not to break their words."""

LABEL_BESIDE = """
.MuiFormControl-root.MuiFormControl-root { flex-direction: row; align-items: center; gap: 10px; }
.MuiFormLabel-root { flex: none; }
"""
"""Sheet of buttons side by side whose label stands before them instead of above."""

HEADINGS_STAY: dict[str, Any] = {
    ".MuiTabs-root": {"position": "sticky", "top": 0, "zIndex": 2, "bgcolor": "background.paper"}
}
"""For tabs whose content scrolls below them."""

CSS_VARIABLES = """
:host, :root {
  --dv-text: var(--panel-on-background-color, #1b1f24);
  --dv-muted: color-mix(in srgb, var(--dv-text) 62%, transparent);
  --dv-faint: color-mix(in srgb, var(--dv-text) 12%, transparent);
  --dv-wash: color-mix(in srgb, var(--dv-text) 5%, transparent);
  --dv-surface: var(--panel-surface-color, #fff);
  --dv-primary: var(--panel-primary-color, #3457d5);
  --dv-selected: #2f6fed;
  --dv-neighbour: #e5484d;
  --dv-path: #0f9d8a;
  --dv-baseline: #8a8f98;
}
"""
"""Shared by every pane; derived from the page's theme so that dark mode needs no second sheet."""

PANE_CSS = (
    CSS_VARIABLES
    + """
:host { font-family: Roboto, 'Helvetica Neue', Arial, sans-serif; font-size: 13px; color: var(--dv-text); }
p { margin: 0; line-height: 1.5; }
.muted { color: var(--dv-muted); }
.small { font-size: 12px; }
.title { font-size: 14px; font-weight: 600; letter-spacing: .01em; }
.overline { font-size: 11px; font-weight: 600; letter-spacing: .06em; text-transform: uppercase;
  color: var(--dv-muted); }
.num { font-variant-numeric: tabular-nums; }
img.px, img.photo { display: block; border-radius: 4px; background: var(--dv-wash); object-fit: contain; }
img.px { image-rendering: pixelated; }
.clamp { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden; }
.whole { max-height: 132px; overflow-y: auto; overflow-wrap: anywhere; }
a { color: var(--dv-primary); text-decoration: none; }
a:hover { text-decoration: underline; }
table.facts { border-collapse: collapse; width: 100%; }
table.facts td { padding: 4px 0; border-bottom: 1px solid var(--dv-faint); vertical-align: top; }
table.facts td:first-child { color: var(--dv-muted); padding-right: 16px; white-space: nowrap; }
table.facts td:last-child { text-align: right; word-break: break-word; }
"""
)
