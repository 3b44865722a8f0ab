"""The samples at one end of a measured number: those farthest from the data, those that the map misplaces."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from panel_app.analysis.sample_lists import sample_entries, sample_list
from panel_app.cards import column_label, hint
from panel_app.clustering import TRUST
from panel_app.fields import Part, press, section, text
from panel_app.layer_map import LayerMap
from panel_app.session import Session

_LISTED = 48


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of each sample, and how it is told of."""

    column: str
    largest: bool
    """Whether the largest values are the remarkable ones."""
    label: str
    """Of the list, for who hears it."""
    about: str
    """What the number is, in plain words."""
    button: str
    """Of colouring the map by it."""
    order: str
    """What the list is in the order of."""
    lacking: str
    """Said of a map without it."""


OUTLIERS = Measure(
    column="distance_to_data",
    largest=True,
    label="Outliers",
    about="Distance to the data: how far a sample is, in activation space, from its nearest samples on average. "
    "Those farthest away are unlike all others to this layer: rare, mislabelled or broken ones are found here.",
    button="Colour by distance",
    order="Distance",
    lacking="This map has no distances to the data; re-compute it, then it has.",
)
TRUSTED = Measure(
    column=TRUST,
    largest=False,
    label="Least trusted",
    about="Trust: the share of a sample's ten nearest in activation space that are among its ten nearest on the map. "
    "At 1 its surroundings can be believed; near 0 the map places it among strangers. The least trusted come first.",
    button="Colour by trust",
    order="Trust",
    lacking="This map was not measured point by point; re-compute it, then it is.",
)


class ExtremesSection(Part):
    """What a number means, a button that colours the map by it, and the samples at its remarkable end."""

    def __init__(self, session: Session, measure: Measure) -> None:
        super().__init__(session=session)
        self.measure = measure
        self.colour = press(measure.button, self._toggle_colour, icon="palette", variant="outlined", margin=(8, 0))
        self._summary = text()
        self.list = sample_list(
            session, label=measure.label, order=measure.order, removable=False, opens=True, detail_help=measure.about,
            margin=(4, 0),
        )  # fmt: skip
        self._layout = section(text(hint(measure.about), margin=0), self.colour, self._summary, self.list)

    def show(self) -> None:
        """Show the remarkable samples among those that the filter shows."""
        layer_map, state = self.session.map, self.session.state
        lacks = layer_map is None or self.measure.column not in layer_map.numeric_columns
        self.colour.visible = self.list.visible = not lacks
        if layer_map is None or lacks:
            self._summary.object = hint(self.measure.lacking)
            self.list.entries = []
            return
        coloured = state.colour_by == self.measure.column
        self.colour.param.update(
            label=f"Colour by {column_label(layer_map.default_colour).lower()} again"
            if coloured
            else self.measure.button
        )
        found = extremes(layer_map, self.measure, layer_map.shown(state.filter), _LISTED)
        values = layer_map.table[self.measure.column].to_numpy(np.float64)
        values = values[np.isfinite(values)]
        self._summary.object = (
            f'<p class="small muted num">Mean {values.mean():.2f}, from {values.min():.2f} to {values.max():.2f}. '
            "Click a sample to select it.</p>"
        )
        self.list.param.update(
            empty="The filter shows no sample with this number.",
            entries=sample_entries(layer_map, list(found), distances=found, active=state.selection.sample_id),
        )

    def _toggle_colour(self) -> None:
        state = self.session.state
        if state.colour_by == self.measure.column:
            state.colour_by = self.session.map.default_colour
        else:
            state.colour_by = self.measure.column


def extremes(layer_map: LayerMap, measure: Measure, shown: Any, count: int) -> dict[str, float]:
    """Return the samples at the remarkable end of a number with their values, the most remarkable first.

    Args:
        layer_map: the map; of a joint one the points at its layer run's noise level.
        measure: the number.
        shown: rows of its table to look among.
        count: how many at most.
    """
    rows = shown if not layer_map.is_joint else shown[shown.index.isin(list(layer_map.row_of.values()))]
    values = rows[measure.column].to_numpy(np.float64)
    finite = np.flatnonzero(np.isfinite(values))
    order = finite[np.argsort(-values[finite] if measure.largest else values[finite], kind="stable")][:count]
    ids = rows["sample_id"].iloc[order].astype(str)
    return dict(zip(ids, values[order].tolist(), strict=True))
