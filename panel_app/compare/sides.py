"""One side of a comparison: a map of its own, with the state of the visitor's session, which both sides share."""

from collections.abc import Sequence

from panel_app.comparisons import NeighbourhoodChange
from panel_app.layer_map import LayerMap
from panel_app.session import Session, Severity


class Side(Session):
    """Draws a map; whatever is chosen on it is chosen for the session, by sample_id.

    Args:
        session: the visitor's session.
        name_of_side: 'left' or 'right', for sentences.
    """

    def __init__(self, session: Session, name_of_side: str) -> None:
        super().__init__(session.store)
        self.session, self.state, self._side = session, session.state, name_of_side
        self.plain: LayerMap | None = None
        """The map on show, as it is without a comparison."""
        self._change: NeighbourhoodChange | None = None

    def show(self, layer_map: LayerMap, change: NeighbourhoodChange | None = None) -> None:
        """Show a map, coloured by how much neighbourhoods change where `change` is given."""
        if self.plain is not layer_map or self._change is not change:
            self.plain, self._change = layer_map, change
            self.map = layer_map if change is None else change.on(layer_map)

    def tell(self, text: str, severity: Severity = "error") -> None:
        """Show the visitor a sentence."""
        self.session.tell(text, severity)

    def click(self, sample_id: str) -> None:
        """Answer a click on a sample of this side's map."""
        if self.session.map is None or sample_id not in self.session.map.row_of:
            self.tell(f"Sample {sample_id} is only on the {self._side} map, so it cannot be selected here.", "info")
        else:
            self.session.click(sample_id)

    def mark(self, sample_ids: Sequence[str]) -> None:
        """Mark samples together, those that are on the session's map."""
        self.session.mark(sample_ids)
