"""Clicks that read a form: they wait until what was typed just before has arrived."""

from collections.abc import Callable
from typing import Any

import panel as pn

ARRIVES_WITHIN = 150
"""Milliseconds. Panel holds a typed value back for 50, but hands on a click at once: a click that follows
quickly, or on a busy server, would read the form as it was before."""


def after_typing(action: Callable[[], Any]) -> Callable[[Any], None]:
    """Return what to do on a click: `action`, once typed values have arrived."""

    def clicked(_: Any) -> None:
        document = pn.state.curdoc
        if document is None or document.session_context is None:  # no page, so nobody types
            action()
        else:
            pn.state.add_periodic_callback(action, period=ARRIVES_WITHIN, count=1)

    return clicked
