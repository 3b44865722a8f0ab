"""Tabs whose content joins the page when it is first looked at: most visits never see most of it."""

from collections.abc import Callable, Mapping

import panel as pn
import panel_material_ui as pmui

from panel_app.fields import Part, section
from panel_app.theme import HEADINGS_STAY


class Tabs(Part):
    """Panels under headings, of which one is on show; the first is there from the beginning.

    Args:
        panels: content by heading, in order.
        on_show: called with the heading that is brought to the front.
    """

    def __init__(self, panels: Mapping[str, pn.viewable.Viewer], on_show: Callable[[str], None]) -> None:
        super().__init__()
        self._panels, self._on_show = dict(panels), on_show
        self._places = {name: section() for name in panels}
        self._layout = pmui.Tabs(
            *self._places.items(), sizing_mode="stretch_width", margin=0, dynamic=False, sx=HEADINGS_STAY
        )
        self._layout.param.watch(lambda event: self._show(list(self._places)[event.new]), "active")
        self._show(next(iter(self._places)))

    def show(self, name: str) -> None:
        """Bring a panel to the front."""
        self._layout.active = list(self._places).index(name)

    def _show(self, name: str) -> None:
        place = self._places[name]
        if not len(place):
            place.append(self._panels[name])
        self._on_show(name)
