"""A plot that waits for its page, where HoloViews would ask again and again."""

from functools import partial
from typing import Any

import holoviews as hv
import panel as pn
from holoviews.plotting.bokeh.raster import RGBPlot
from panel.io.state import set_curdoc


class PatientPlot(RGBPlot):
    """Draws anew once its page is ready.

    `Plot.refresh` puts itself off to the next tick for as long as the browser has not said that it shows the page. A
    visitor who leaves before that would keep the server busy, and the session alive, for ever: a session that has
    something to do does not end.
    """

    _waits = False

    def refresh(self, **kwargs: Any) -> None:
        """Draw anew, or as soon as the page is ready; however often that was asked for, once."""
        with set_curdoc(self.document):
            waits = self.document is not None and not pn.state.loaded
            if waits and not self._waits:
                pn.state.onload(partial(self._begin, **kwargs))
        self._waits = waits
        if not waits:  # not as if the document were the current one: HoloViews looks whether it is
            super().refresh(**kwargs)

    def _begin(self, **kwargs: Any) -> None:
        self._waits = False
        super().refresh(**kwargs)


def load_plots() -> None:
    """Make HoloViews draw with Bokeh, and pictures patiently."""
    if hv.Store.registry.get("bokeh", {}).get(hv.RGB) is not PatientPlot:
        hv.extension("bokeh", logo=False)
        hv.Store.registry["bokeh"][hv.RGB] = PatientPlot
