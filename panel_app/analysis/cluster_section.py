"""Finding clusters on the map on show, and what each consists of."""

import math
from typing import Any

import panel as pn
import panel_material_ui as pmui

from panel_app.analysis.clustering import CLUSTER, Clustering, FoundClusters, find
from panel_app.cards import hint_small, quiet
from panel_app.clicks import after_typing
from panel_app.components import Ranking
from panel_app.computing.job_bar import JobBar
from panel_app.computing.jobs import JobQueue, Report
from panel_app.html import Html
from panel_app.session import Session
from panel_app.theme import PANE_CSS

COLUMNS: tuple[dict[str, Any], ...] = (
    {"key": "cluster", "label": "Cluster", "help": "By size, with its commonest class", "wide": True, "swatch": True},
    {"key": "size", "label": "Size", "help": "Points in the cluster", "number": True},
    {"key": "purity", "label": "Purity", "help": "Share of its points that are of its commonest class", "number": True},
    {
        "key": "trust",
        "label": "Trust",
        "help": "Mean share of a point's nearest samples in activation space that are its nearest on the map too",
        "number": True,
    },
)
_FOUND_NONE = "No cluster: fewer points, or all of them in one heap. Try a smaller least size, or the other space."


class ClusterSection(pn.viewable.Viewer):
    """Form, button, the job's bar, and the table of clusters; a click on one marks its samples."""

    def __init__(self, session: Session, queue: JobQueue, **params: Any) -> None:
        super().__init__(**params)
        self.session = session
        asked = Clustering.read(session.state.clusters) or Clustering()
        self.space = pmui.RadioButtonGroup(
            label="Clusters of",
            options={"Map": "map", "Activations": "activation"},
            value=asked.space,
            size="small",
            margin=(4, 0),
            sizing_mode="stretch_width",
            description="Where points must lie densely: on the drawn map, or in activation space (PCA), "
            "where fewer points lie in a cluster but the map's distortion plays no part.",
        )
        self.min_size = pmui.IntInput(
            label="Fewest points in a cluster",
            value=asked.min_size,
            start=2,
            end=100_000,
            size="small",
            margin=(6, 0),
            sizing_mode="stretch_width",
            description="HDBSCAN's min_cluster_size: small finds many clusters, large only the broad ones.",
        )
        self.button = pmui.Button(
            label="Find clusters",
            icon="bubble_chart",
            size="small",
            sizing_mode="stretch_width",
            margin=(6, 4, 6, 0),
            on_click=after_typing(self.find),
        )
        self.drop = pmui.Button(
            label="Remove",
            variant="outlined",
            size="small",
            margin=(6, 0, 6, 4),
            description="Show the map without clusters.",
            on_click=lambda _: session.drop_clusters(),
        )
        self.bar = JobBar(queue, on_over=self._enable, on_done=self._done, on_told=session.tell)
        self.table = Ranking(
            self._on_table, columns=[dict(c) for c in COLUMNS], sort={"key": "size", "down": True}, margin=(4, 0)
        )
        self._told = Html("", stylesheets=[PANE_CSS], sizing_mode="stretch_width", margin=(2, 0, 4, 0))
        self._layout = pn.Column(
            quiet("HDBSCAN finds dense heaps of samples; points between them are in no cluster."),
            self.space,
            self.min_size,
            pn.Row(self.button, self.drop, sizing_mode="stretch_width", margin=0),
            self.bar,
            self.table,
            self._told,
            sizing_mode="stretch_width",
            margin=0,
        )
        session.param.watch(lambda *_: self._follow(), "map")
        self._follow()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def find(self) -> None:
        """Look for the clusters that the form asks for."""
        self._start(Clustering(self.space.value, int(self.min_size.value or 2)), colour=True)

    def show(self) -> None:
        """Show the clusters of the map on show."""
        found = self.found
        self.table.visible = self._told.visible = self.drop.visible = found is not None
        if found is None:
            self.table.rows = []
            return
        layer_map, group = self.session.map, self.session.state.group
        colours = dict(zip(found.names, layer_map.colouring(CLUSTER).colours, strict=False))
        marked = frozenset(group.sample_ids)
        self.table.param.update(
            empty=_FOUND_NONE,
            rows=[
                {
                    "id": str(s.number),
                    "cluster": found.names[s.number],
                    "colour": colours[found.names[s.number]],
                    "size": s.size,
                    "size_text": f"{s.size:,}",
                    "purity": _number(s.purity),
                    "purity_text": _text(s.purity),
                    "trust": _number(s.trust),
                    "trust_text": _text(s.trust),
                    "title": f"Mark the {s.size:,} points of cluster {found.names[s.number]}",
                    "active": bool(marked) and marked == frozenset(found.members(layer_map, s.number)),
                }
                for s in found.summaries
            ],
        )
        alone = int((found.numbers < 0).sum())
        self._told.object = hint_small(
            f"{len(found.names):,} clusters; {alone:,} of {len(found.numbers):,} points in none. "
            "Click a cluster to mark its samples."
        )

    @property
    def found(self) -> FoundClusters | None:
        """The clusters of the map on show, if it has any."""
        layer_map, asked = self.session.map, Clustering.read(self.session.state.clusters)
        if layer_map is None or asked is None or CLUSTER not in layer_map.table:
            return None
        found: FoundClusters | None = self.session.store.known_derived(layer_map, asked)
        return found

    def _follow(self) -> None:
        """Find on another map what was asked for on the last one."""
        layer_map, asked = self.session.map, Clustering.read(self.session.state.clusters)
        if layer_map is not None and asked is not None and CLUSTER not in layer_map.table:
            self.space.value, self.min_size.value = asked.space, asked.min_size
            self._start(asked, colour=False)
        self._enable()

    def _start(self, asked: Clustering, *, colour: bool) -> None:
        layer_map, store = self.session.map, self.session.store
        if layer_map is None or self.bar.busy:
            return
        self._colour = colour

        def work(report: Report) -> Any:
            report(0, 0)
            found = store.derived(layer_map, asked, lambda: find(layer_map, asked))
            report(1, 1)
            return layer_map, found

        self.button.disabled = True
        self.bar.start("Finding clusters", work)

    def _done(self, result: Any) -> None:
        on, found = result
        layer_map = self.session.map
        if layer_map is not None and (layer_map.map_run, layer_map.layer.run_id) == (on.map_run, on.layer.run_id):
            self.session.show_clusters(found, colour=self._colour)
            self.show()
        else:
            self._follow()

    def _enable(self) -> None:
        self.button.disabled = self.bar.busy or self.session.map is None

    def _on_table(self, message: dict[str, Any]) -> None:
        number, found = str(message.get("open")), self.found
        if found is not None and number.isdecimal() and int(number) < len(found.names):
            self.session.mark(found.members(self.session.map, int(number)))


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _text(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"
