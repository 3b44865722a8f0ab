"""What stands beside the session's own map in the compare view, as keys that fit into an address."""

import json
import math
from dataclasses import dataclass, fields, replace
from typing import Any, Self

CHANGES, CKA, QUALITY, BETWEEN = "changes", "cka", "quality", "between"
TOOLS = (CHANGES, CKA, QUALITY, BETWEEN)
"""What the compare view can show below its two maps, in the order of the tabs."""
LARGEST_K = 50


@dataclass(frozen=True, slots=True)
class Against:
    """The right-hand map and how the two are compared; every change returns a new value."""

    run: str | None = None
    """Run id of the right-hand extraction; None until one is chosen."""
    layer: str | None = None
    sigma: float | None = None
    map: str | None = None
    """Run id of a re-computed map; None shows the layer's own."""
    tool: str = CHANGES
    k: int = 10
    """Size of the neighbourhoods that are compared."""
    coloured: bool = False
    """Whether both maps are coloured by how much neighbourhoods change."""
    together: bool = False
    """Whether both maps zoom together."""
    follow: bool = False
    """Whether both maps keep the selected sample in their middle."""
    share: float = 0.0
    """Where between the maps the moving picture stands: 0 left, 1 right."""

    def at(self, run: str, layer: str, sigma: float, map_run: str | None = None) -> Self:
        """Place another map on the right."""
        return replace(self, run=run, layer=layer, sigma=sigma, map=map_run)

    @property
    def place(self) -> tuple[str | None, str | None, float | None, str | None]:
        """What names the right-hand map."""
        return self.run, self.layer, self.sigma, self.map

    def to_json(self) -> str | None:
        """Return what differs from the default as JSON, or None when nothing does."""
        default = type(self)()
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {name: value for name, value in values.items() if value != getattr(default, name)}
        return json.dumps(changed) if changed else None

    @classmethod
    def from_json(cls, text: Any) -> Self:
        """Read what `to_json` wrote; what is malformed counts as absent."""
        try:
            given = json.loads(text) if isinstance(text, str) else text
        except json.JSONDecodeError:
            return cls()
        if not isinstance(given, dict):
            return cls()
        values = {name: given[name] for name, fits in _FITS.items() if name in given and fits(given[name])}
        return cls(**values)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_level(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


_FITS = {
    "run": _is_text,
    "layer": _is_text,
    "sigma": _is_level,
    "map": _is_text,
    "tool": lambda value: value in TOOLS,
    "k": lambda value: isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_K,
    "coloured": _is_flag,
    "together": _is_flag,
    "follow": _is_flag,
    "share": lambda value: _is_level(value) and 0 <= value <= 1,
}


NOTHING = Against()
"""Nothing stands beside it yet."""
