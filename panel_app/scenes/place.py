"""Where a visitor stands in the views over sigma and in space, as keys that fit into an address."""

import json
import math
from dataclasses import dataclass
from typing import Any, Self

SIGMA_AXIS, THREE_AXES = "sigma", "umap"
AXES = (SIGMA_AXIS, THREE_AXES)
"""What the third dimension of the view in space is: the noise level, or UMAP's own."""


@dataclass(frozen=True, slots=True)
class Across:
    """Which aligned map is on show, and where on it; every change returns a new value."""

    map_run: str | None = None
    """Run id of an aligned map of the layer; None shows its newest."""
    sigma: float | None = None
    """Noise level at which the player stands; None is that of the layer run."""
    axis: str | None = None
    """One of AXES; None shows what there is."""

    def to_json(self) -> str | None:
        """Return what is chosen as JSON, or None when nothing is."""
        chosen = {"map": self.map_run, "sigma": self.sigma, "axis": self.axis}
        kept = {name: value for name, value in chosen.items() if value is not None}
        return json.dumps(kept) if kept else None

    @classmethod
    def from_json(cls, text: Any) -> Self:
        """Read what `to_json` wrote; what is malformed counts as absent."""
        try:
            given = json.loads(text) if isinstance(text, str) else text
        except json.JSONDecodeError:
            return cls()
        if not isinstance(given, dict):
            return cls()
        run, axis = given.get("map"), given.get("axis")
        sigma: Any = given.get("sigma")
        return cls(
            map_run=run if isinstance(run, str) and run else None,
            sigma=float(sigma) if _is_level(sigma) else None,
            axis=axis if axis in AXES else None,
        )


def _is_level(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


ANYWHERE = Across()
"""Nothing is chosen: what there is is shown."""
