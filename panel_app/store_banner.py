"""The banner that says that the artifact store does not answer: what this host has kept can still be looked at."""

from typing import Any

import panel_material_ui as pmui
import param

from panel_app.computing.background import Background
from panel_app.fields import Part, section
from panel_app.session import Session

_KEPT = "What this host has fetched before can still be looked at; other maps and new generations need the store."


class StoreBanner(Part):
    """Looks once for each visit, and again when asked."""

    def __init__(self, session: Session, **params: Any) -> None:
        self._work = Background(self._answer)
        self.alert = pmui.Alert(
            object="", title="The artifact store cannot be reached", severity="warning", closeable=True, visible=False,
            margin=(0, 0, 6, 0), sizing_mode="stretch_width",
        )  # fmt: skip
        self.retry = pmui.Button(
            label="Try again", icon="refresh", variant="outlined", size="small", visible=False, margin=(0, 0, 12, 0),
            on_click=lambda _: self.look(again=True),
        )  # fmt: skip
        self._layout = section(self.alert, self.retry)
        super().__init__(session=session, **params)

    def look(self, *, again: bool = False) -> None:
        """Ask the store beside the page whether it answers."""
        self.retry.param.update(disabled=True, label="Looking…")
        self._work.start(self.session.store.library.trouble, self._answer_again if again else self._answer)

    def leave(self) -> None:
        """Look no more: the visitor has left."""
        self._work.leave()

    def _answer(self, trouble: str | None) -> None:
        self.retry.param.update(disabled=False, label="Try again")
        if trouble is None:
            self.alert.visible = False
            return
        self.alert.param.update(object=f"{trouble}. {_KEPT}", visible=True, closed=False)

    def _answer_again(self, trouble: str | None) -> None:
        self._answer(trouble)
        if trouble is None:
            self.session.tell("The artifact store answers again.", "info")
            if self.session.map is None:
                self.session.refresh()

    @param.depends("alert.closed", "alert.visible", watch=True)
    def _follow_alert(self) -> None:
        self.retry.visible = self.alert.visible and not self.alert.closed
