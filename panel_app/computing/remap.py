"""Re-computing the map of the layer on show with other UMAP parameters, as a new run."""

from dataclasses import replace

import panel_material_ui as pmui
import param

from diffviews.pipelines.model_runner import Runner
from diffviews.processing.map_parameters import MapParameters
from diffviews.recipes import EmbeddingRecipe
from diffviews.tracking.schema import MapKind
from panel_app.cards import quiet
from panel_app.computing.job_bar import JobBar, SessionJobs
from panel_app.fields import Part, choice, field, press, section
from panel_app.places import NOISE, SPACE, THREE_AXES
from panel_app.session import Session


class RemapPanel(Part):
    """Parameters, button and the job's bar."""

    def __init__(self, session: Session, runner: Runner, queue: SessionJobs) -> None:
        self.runner = runner
        kinds = {
            "This one": MapKind.SINGLE,
            "All in one space (joint)": MapKind.JOINT,
            "A slice each (aligned)": MapKind.ALIGNED,
        }
        self.kind = field(
            pmui.Select, "Noise levels",
            "Joint: the samples of all noise levels on one map. Aligned: a slice each, every sample near itself, shown "
            "under “Noise levels” and “3-D”.", options=kinds, value=MapKind.SINGLE,
        )  # fmt: skip
        self.dimensions = choice(
            "Dimensions", {"2-D": 2, "3-D": 3}, 2,
            "UMAP n_components: 3-D is shown under “3-D”, its first two on the map.",
        )  # fmt: skip
        self.n_neighbors = field(
            pmui.IntSlider, "Neighbours", "UMAP n_neighbors: few show fine structure, many the overall shape.",
            start=5, end=100, value=15,
        )  # fmt: skip
        self.min_dist = field(
            pmui.FloatSlider, "Minimum distance", "UMAP min_dist: small packs alike samples tightly.",
            start=0.0, end=1.0, step=0.01, value=0.1,
        )  # fmt: skip
        self.pca = field(
            pmui.IntSlider, "PCA components",
            "Activations are reduced to so many dimensions first; 0 uses them as they are.", start=0, end=200, value=50,
        )  # fmt: skip
        self.button = press("Re-compute the map", self.compute, typed=True, icon="scatter_plot", variant="outlined")
        self.bar = JobBar(session, queue, self._done)
        self._layout = section(
            self.kind, self.dimensions, self.n_neighbors, self.min_dist, self.pca, self.button,
            quiet("A further map, logged as a run; this one stays as it is."), self.bar,
        )  # fmt: skip
        super().__init__(session=session)

    def compute(self) -> None:
        """Queue the map that the sliders ask for."""
        layer_run, runner, kind = self.session.map.layer.run_id, self.runner, MapKind(self.kind.value)
        parameters = MapParameters(
            n_neighbors=int(self.n_neighbors.value),
            min_dist=float(self.min_dist.value),
            n_components=2 if kind is MapKind.ALIGNED else int(self.dimensions.value),
            pca_components=int(self.pca.value) or None,
        )
        self._layer_run, self._ordered = layer_run, (kind, parameters.n_components)
        recipe = EmbeddingRecipe(layer_run, kind.value, maps=parameters)
        self.bar.start("Computing the map", lambda job: runner.embed(recipe, job))

    def _done(self, run_id: str) -> None:
        self.session.refresh()
        layer_map, state, (kind, dimensions) = self.session.map, self.session.state, self._ordered
        if layer_map is None or layer_map.layer.run_id != self._layer_run:
            self.session.tell("The re-computed map is logged; open its layer and choose it under Map.", "info")
        elif kind is MapKind.ALIGNED:
            state.across = replace(state.across, map=run_id)
            state.view = NOISE
        else:
            self.session.choose_map(run_id)
            self.session.tell("The re-computed map is on show; the one logged with the layer stays under Map.", "info")
            if dimensions == 3:
                state.across = replace(state.across, axis=THREE_AXES)
                state.view = SPACE

    @param.depends("bar.busy", "kind.value", "session.map", watch=True, on_init=True)
    def _enable(self) -> None:
        self.button.disabled = self.bar.busy or self.session.map is None
        self.dimensions.disabled = self.kind.value == MapKind.ALIGNED
