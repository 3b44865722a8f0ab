"""Where a visitor stands in the compare view and in the scenes, as keys that fit into an address."""

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self

COMPARE, NOISE, SPACE = "compare", "noise", "3d"
"""What the address calls the views beside the map."""

CHANGES, CKA, QUALITY, BETWEEN = "changes", "cka", "quality", "between"
TOOLS = (CHANGES, CKA, QUALITY, BETWEEN)
"""What the compare view can show below its two maps, in the order of the tabs."""
LARGEST_K = 50

SIGMA_AXIS, THREE_AXES = "sigma", "umap"
AXES = (SIGMA_AXIS, THREE_AXES)
"""What the third dimension of the view in space is: the noise level, or UMAP's own."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_FITS: dict[Any, Any] = {str | None: _is_text, float | None: _is_number, bool: lambda value: isinstance(value, bool)}
"""Whether a value fits a field, by the field's type."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Fields that an address holds as JSON; every change returns a new value."""

    _FITS: ClassVar[dict[str, Any]] = {}
    """Whether a value fits a field of which its type does not say all, by the field's name."""

    def to_json(self) -> str | None:
        """Return what differs from the default as JSON, or None when nothing does."""
        default = type(self)()
        changed = {name: value for name, value in asdict(self).items() if value != getattr(default, name)}
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
        fits = {field.name: cls._FITS.get(field.name) or _FITS[field.type] for field in fields(cls)}
        return cls(**{name: given[name] for name, is_fit in fits.items() if name in given and is_fit(given[name])})


@dataclass(frozen=True, slots=True)
class Against(_Place):
    """The right-hand map and how the two are compared."""

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

    _FITS = {  # noqa: RUF012
        "tool": lambda value: value in TOOLS,
        "k": lambda value: isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_K,
        "share": lambda value: _is_number(value) and 0 <= value <= 1,
    }

    def at(self, run: str, layer: str, sigma: float, map_run: str | None = None) -> Self:
        """Place another map on the right."""
        return replace(self, run=run, layer=layer, sigma=sigma, map=map_run)

    @property
    def place(self) -> tuple[str | None, str | None, float | None, str | None]:
        """What names the right-hand map."""
        return self.run, self.layer, self.sigma, self.map


@dataclass(frozen=True, slots=True)
class Across(_Place):
    """Which aligned map is on show, and where on it."""

    map: str | None = None
    """Run id of an aligned map of the layer; None shows its newest."""
    sigma: float | None = None
    """Noise level at which the player stands; None is that of the layer run."""
    axis: str | None = None
    """One of AXES; None shows what there is."""

    _FITS = {  # noqa: RUF012
        "sigma": lambda value: _is_number(value) and value > 0,
        "axis": lambda value: value in AXES,
    }


NOTHING, ANYWHERE = Against(), Across()
"""Nothing stands beside the map yet; nothing is chosen, so that what there is is shown."""
