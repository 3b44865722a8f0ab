"""Finding clusters on the map on show, and what each consists of."""

import math
from typing import Any

import panel_material_ui as pmui
import param

from diffviews.pipelines.job_queue import Job
from panel_app.cards import hint_small, quiet
from panel_app.clustering import CLUSTER, Clustering, FoundClusters, find
from panel_app.components import Ranking, column
from panel_app.computing.job_bar import JobBar, SessionJobs
from panel_app.fields import Part, choice, field, press, row, section, text
from panel_app.session import Session

COLUMNS = (
    column("cluster", "Cluster", "By size, with its commonest class", wide=True, swatch=True),
    column("size", "Size", "Points in the cluster", number=True),
    column("purity", "Purity", "Share of its points that are of its commonest class", number=True),
    column(
        "trust", "Trust", "Mean share of a point's nearest samples in activation space that are its nearest on the map "
        "too", number=True,
    ),
)  # fmt: skip
_FOUND_NONE = "No cluster: fewer points, or all of them in one heap. Try a smaller least size, or the other space."


class ClusterSection(Part):
    """Form, button, the job's bar, and the table of clusters; a click on one marks its samples."""

    def __init__(self, session: Session, queue: SessionJobs) -> None:
        wanted = Clustering.read(session.state.clusters) or Clustering()
        self.space = choice(
            "Clusters of", {"Map": "map", "Activations": "activation"}, wanted.space,
            "Where points must lie densely: on the drawn map, or in activation space (PCA), where fewer points lie in "
            "a cluster but the map's distortion plays no part.",
        )  # fmt: skip
        self.min_size = field(
            pmui.IntInput, "Fewest points in a cluster",
            "HDBSCAN's min_cluster_size: small finds many clusters, large only the broad ones.",
            value=wanted.min_size, start=2, end=100_000,
        )  # fmt: skip
        self.button = press("Find clusters", self.find, typed=True, icon="bubble_chart", margin=(6, 4, 6, 0))
        self.drop = press(
            "Remove", session.drop_clusters, "Show the map without clusters.", variant="outlined", sizing_mode=None,
            margin=(6, 0, 6, 4),
        )  # fmt: skip
        self.bar = JobBar(session, queue, self._done)
        self.table = Ranking(self._on_table, columns=list(COLUMNS), sort={"key": "size", "down": True}, margin=(4, 0))
        self._summary = text(margin=(2, 0, 4, 0))
        self._layout = section(
            quiet("HDBSCAN finds dense heaps of samples; points between them are in no cluster."),
            self.space, self.min_size, row(self.button, self.drop), self.bar, self.table, self._summary,
        )  # fmt: skip
        super().__init__(session=session)

    def find(self) -> None:
        """Look for the clusters that the form asks for."""
        self._start(Clustering(self.space.value, int(self.min_size.value or 2)), colour=True)

    def show(self) -> None:
        """Show the clusters of the map on show."""
        found = self.found
        self.table.visible = self._summary.visible = self.drop.visible = found is not None
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
        self._summary.object = hint_small(
            f"{len(found.names):,} clusters; {alone:,} of {len(found.numbers):,} points in none. "
            "Click a cluster to mark its samples."
        )

    @property
    def found(self) -> FoundClusters | None:
        """The clusters of the map on show, if it has any."""
        layer_map, wanted = self.session.map, Clustering.read(self.session.state.clusters)
        if layer_map is None or wanted is None or CLUSTER not in layer_map.table:
            return None
        found: FoundClusters | None = self.session.store.known_derived(layer_map, wanted)
        return found

    @param.depends("session.map", watch=True, on_init=True)
    def _follow(self) -> None:
        """Find on another map what was looked for on the last one."""
        layer_map, wanted = self.session.map, Clustering.read(self.session.state.clusters)
        if layer_map is not None and wanted is not None and CLUSTER not in layer_map.table:
            self.space.value, self.min_size.value = wanted.space, wanted.min_size
            self._start(wanted, colour=False)

    def _start(self, wanted: Clustering, *, colour: bool) -> None:
        layer_map, store = self.session.map, self.session.store
        if layer_map is None or self.bar.busy:
            return
        self._colour = colour

        def work(job: Job) -> Any:
            job.report(0, 0)
            found = store.derived(layer_map, wanted, lambda: find(layer_map, wanted))
            job.report(1, 1)
            return layer_map, found

        self.bar.start("Finding clusters", work)

    def _done(self, result: Any) -> None:
        on, found = result
        layer_map = self.session.map
        if layer_map is not None and (layer_map.map_run, layer_map.layer.run_id) == (on.map_run, on.layer.run_id):
            self.session.show_clusters(found, colour=self._colour)
            self.show()
        else:
            self._follow()

    @param.depends("bar.busy", "session.map", watch=True, on_init=True)
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
