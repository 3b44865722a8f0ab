"""Whose average masks a layer: the selected sample with its neighbours, or all samples that were marked together."""

from html import escape
from typing import Literal

import param

from diffviews.recipes.naming import joined_layers
from panel_app.cards import hint, thumbnail_strip
from panel_app.fields import Part, choice, section, switch, text
from panel_app.generation.form_model import FormModel
from panel_app.points import short_sigma
from panel_app.session import Session
from panel_app.state import Group, Selection

Source = Literal["selection", "group"]
_LARGEST_SELECTION = 50
"""A recipe of more samples is shown as a marked group; rings around so many would hide the map."""


class AverageSection(Part):
    """Says which samples are averaged, and chooses between selection and group where there is a choice."""

    def __init__(self, session: Session, model: FormModel) -> None:
        self._model = model
        self.source = choice(
            "Average over", {"Selection": "selection", "Marked group": "group"}, "selection",
            "The selected sample and its neighbours, or all samples marked with lasso or box.",
            margin=(12, 0, 0, 0), visible=False,
        )  # fmt: skip
        self.include = switch(
            "Include the selected sample in the average", True, "Otherwise only its neighbours are averaged.",
            margin=(2, 0),
        )  # fmt: skip
        self._text = text(margin=(12, 0, 8, 0))
        self._layout = section(self.source, self._text, self.include)
        super().__init__(session=session)
        model.param.watch(lambda _: self.show(), "layers")

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """The samples to average, those on this map only."""
        layer_map, state = self.session.map, self.session.state
        if layer_map is None:
            return ()
        if self.source.value == "group" and len(state.group):
            members = state.group.sample_ids
        else:
            chosen = state.selection
            members = chosen.members if self.include.value or not chosen.neighbours else chosen.neighbours
        return tuple(s for s in members if s in layer_map.row_of)

    def follow(self) -> None:
        """Offer the group while there is one; take it by itself where nothing is selected."""
        state = self.session.state
        grouped = len(state.group) > 0
        offered, self.source.visible = self.source.visible, grouped
        if not grouped:
            self.source.value = "selection"
        elif not offered and state.selection.sample_id is None:
            self.source.value = "group"
        self.show()

    @param.depends("source.value", "include.value", watch=True)
    def show(self) -> None:
        """Say which layers are masked, with how many samples, at which noise level."""
        layer_map, members = self.session.map, self.sample_ids
        by_group = self.source.visible and self.source.value == "group"
        self.include.visible = not by_group and bool(self.session.state.selection.neighbours)
        if layer_map is None or not members:
            self._text.object = hint(
                "Select a point to mask this layer with its average, or mark many with lasso or box; without either, "
                "nothing is masked."
            )
            return
        samples = "1 sample" if len(members) == 1 else f"the average of {len(members):,} samples"
        layers = joined_layers(self._model.layers or (layer_map.layer.layer,))
        where = f"at σ {short_sigma(layer_map.layer.sigma)}"
        self._text.object = (
            f'<p style="margin-bottom:8px">Masks <b>{escape(layers)}</b> {where} with {samples}</p>'
            + thumbnail_strip(layer_map, members)
        )

    def load(self, sample_ids: tuple[str, ...]) -> None:
        """Select these samples: few as a sample with its neighbours, many as a marked group."""
        state, layer_map = self.session.state, self.session.map
        known = tuple(s for s in sample_ids if layer_map is not None and s in layer_map.row_of)
        self.include.value = True
        if len(known) > _LARGEST_SELECTION:
            state.group = Group(known)
            self.source.value = "group"
            return
        self.session.select(Selection(known[0], manual=known[1:]) if known else Selection())
        self.source.value = "selection"
