"""What one visitor looks at: keys and selections only, never data, never widgets."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import param

from diffviews.noise import format_sigma
from panel_app.filter import SHOW_ALL, Filter
from panel_app.places import ANYWHERE, NOTHING, Across, Against

Space = Literal["activation", "map"]
BY_CLASS = "class"
MAP = "map"
"""The view that opens first."""
LARGEST_ADDRESSED_GROUP = 60
"""A larger group is not written into the address, which browsers and proxies cut."""
ADDRESSED = (
    "view", "extraction", "layer", "sigma", "map_run", "colour_by", "clusters", "filter", "selection", "group",
    "against", "across",
)  # fmt: skip
"""Parts of the state that `to_query` writes."""


@dataclass(frozen=True, slots=True)
class Selection:
    """A selected sample with its neighbours; every change returns a new value."""

    sample_id: str | None = None
    """The ringed sample, or None."""
    suggested: tuple[str, ...] = ()
    """Neighbours proposed by distance, nearest first."""
    manual: tuple[str, ...] = ()
    """Neighbours chosen by hand, in the order chosen."""

    @property
    def neighbours(self) -> tuple[str, ...]:
        """All neighbours, suggested ones first."""
        return self.suggested + self.manual

    @property
    def members(self) -> tuple[str, ...]:
        """The selected sample and its neighbours."""
        return (self.sample_id, *self.neighbours) if self.sample_id else ()

    def click(self, sample_id: str) -> Self:
        """Answer a click: the first selects, a click on the selected one clears, others toggle neighbours."""
        if self.sample_id is None:
            return replace(self, sample_id=sample_id)
        if sample_id == self.sample_id:
            return type(self)()
        return self.toggle(sample_id)

    def toggle(self, sample_id: str) -> Self:
        """Remove a neighbour, suggested or manual; add any other sample as a manual one."""
        if sample_id in self.neighbours:
            return replace(
                self,
                suggested=tuple(s for s in self.suggested if s != sample_id),
                manual=tuple(s for s in self.manual if s != sample_id),
            )
        return replace(self, manual=(*self.manual, sample_id))

    def suggest(self, sample_ids: tuple[str, ...]) -> Self:
        """Replace the suggested neighbours; manual ones and the selected sample stay what they are."""
        taken = {self.sample_id, *self.manual}
        return replace(self, suggested=tuple(s for s in sample_ids if s not in taken))

    def only(self, known: Mapping[str, int]) -> Self:
        """Drop every sample that `known` lacks; without the selected sample nothing remains."""
        if self.sample_id not in known:
            return type(self)()
        return replace(
            self,
            suggested=tuple(s for s in self.suggested if s in known),
            manual=tuple(s for s in self.manual if s in known),
        )


@dataclass(frozen=True, slots=True)
class Group:
    """Samples marked together, by lasso or box or from a list; every change returns a new value."""

    sample_ids: tuple[str, ...] = ()
    """Each once, in the order marked."""

    def __len__(self) -> int:
        return len(self.sample_ids)

    def union(self, sample_ids: Iterable[str]) -> Self:
        """Add samples."""
        return type(self)(tuple(dict.fromkeys((*self.sample_ids, *sample_ids))))

    def minus(self, sample_ids: Iterable[str]) -> Self:
        """Remove samples."""
        removed = frozenset(sample_ids)
        return type(self)(tuple(s for s in self.sample_ids if s not in removed))

    def intersect(self, sample_ids: Iterable[str]) -> Self:
        """Keep only the samples that are among others as well."""
        kept = frozenset(sample_ids)
        return type(self)(tuple(s for s in self.sample_ids if s in kept))


class ViewState(param.Parameterized):
    """The view of one visitor; equal states show equal pages."""

    view = param.String(MAP, doc="which of the main views is on show")
    experiment = param.String(None, allow_None=True, doc="MLflow experiment name")
    extraction = param.String(None, allow_None=True, doc="run id of the extraction")
    layer = param.String(None, allow_None=True, doc="layer name")
    sigma = param.Number(None, allow_None=True, doc="noise level of the layer run")
    map_run = param.String(None, allow_None=True, doc="run id of a re-computed map; None shows the layer's own")
    colour_by = param.String(BY_CLASS, doc="column of the map's table, of categories or of numbers")
    clusters = param.String(None, allow_None=True, doc="clusters asked for, as `Clustering` writes them")
    filter = param.ClassSelector(class_=Filter, default=SHOW_ALL, instantiate=False, doc="which samples are shown")
    selection = param.ClassSelector(class_=Selection, default=Selection(), instantiate=False)
    group = param.ClassSelector(class_=Group, default=Group(), instantiate=False, doc="samples marked together")
    highlight = param.String(None, allow_None=True, doc="category of `colour_by` that is brought forward")
    hovered = param.String(None, allow_None=True, doc="sample id under the pointer")
    against = param.ClassSelector(class_=Against, default=NOTHING, instantiate=False, doc="what stands beside the map")
    across = param.ClassSelector(class_=Across, default=ANYWHERE, instantiate=False, doc="place along sigma, in space")
    k = param.Integer(5, bounds=(1, 50), doc="how many neighbours to suggest")
    space = param.Selector(default="activation", objects=["activation", "map"], doc="where neighbours are near")

    def to_query(self) -> dict[str, str | None]:
        """Return the view as URL query parameters; None removes a parameter."""
        chosen, classes, group = self.selection, self.filter.values_of(BY_CLASS), self.group
        return {
            "view": None if self.view == MAP else self.view,
            "run": self.extraction,
            "layer": self.layer,
            "sigma": None if self.sigma is None else format_sigma(self.sigma),
            "map": self.map_run,
            "colour": None if self.colour_by == BY_CLASS else self.colour_by,
            "clusters": self.clusters,
            "classes": json.dumps(classes) if classes else None,
            "where": self.filter.with_values(BY_CLASS, ()).to_json(),
            "words": self.filter.words or None,
            "sample": chosen.sample_id,
            "near": json.dumps(chosen.suggested) if chosen.suggested else None,
            "also": json.dumps(chosen.manual) if chosen.manual else None,
            "group": json.dumps(group.sample_ids) if 0 < len(group) <= LARGEST_ADDRESSED_GROUP else None,
            "against": self.against.to_json(),
            "across": self.across.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Address:
    """A view as an address asks for it; what it names may not exist."""

    view: str = MAP
    run: str | None = None
    layer: str | None = None
    sigma: float | None = None
    map: str | None = None
    colour: str = BY_CLASS
    clusters: str | None = None
    filter: Filter = SHOW_ALL
    selection: Selection = Selection()
    group: Group = Group()
    against: Against = NOTHING
    across: Across = ANYWHERE

    @classmethod
    def from_query(cls, query: Mapping[str, Any]) -> Self:
        """Read URL query parameters; malformed ones count as absent."""
        sample = _text(query.get("sample"))
        selection = Selection()
        if sample is not None:
            suggested = tuple(s for s in _texts(query.get("near")) if s != sample)
            manual = tuple(s for s in _texts(query.get("also")) if s != sample and s not in suggested)
            selection = Selection(sample, suggested, manual)
        shown = Filter.from_json(query.get("where"), _text(query.get("words")) or "")
        classes = _texts(query.get("classes"))
        return cls(
            view=_text(query.get("view")) or MAP,
            run=_text(query.get("run")),
            layer=_text(query.get("layer")),
            sigma=_number(query.get("sigma")),
            map=_text(query.get("map")),
            colour=_text(query.get("colour")) or BY_CLASS,
            clusters=_text(query.get("clusters")),
            filter=shown.with_values(BY_CLASS, classes) if classes else shown,
            selection=selection,
            group=Group(_texts(query.get("group"))),
            against=Against.from_json(query.get("against")),
            across=Across.from_json(query.get("across")),
        )


def _text(value: Any) -> str | None:
    return str(value) if value not in (None, "") else None


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return ()
    if not isinstance(value, list | tuple):
        return ()
    return tuple(dict.fromkeys(item for item in value if isinstance(item, str)))
