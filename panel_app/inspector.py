"""The panel beside the map: the selected sample, its neighbours, the ranking of layers, the run."""

from collections.abc import Mapping
from typing import Any

import panel_material_ui as pmui
import param

from diffviews.noise import format_sigma
from diffviews.pipelines.control.measures import is_marked
from diffviews.recipes.extraction import without_class_measures
from diffviews.tracking.records import LayerRecord
from panel_app.analysis.sample_lists import remainder, sample_entries, sample_list
from panel_app.best_layer import DECIDES, GAIN, KNOWS
from panel_app.cards import facts, hint, hint_small, link, run_facts, selected_card
from panel_app.components import Ranking, column
from panel_app.fields import Part, choice, field, press, row, section, text
from panel_app.layer_map import LayerMap
from panel_app.session import Session

BASELINE = "control_baseline"
_BACK = (
    "And back: the id of an extraction, a layer run, a map or a generation, copied from MLflow and written after ?run= "
    "in this page's address, opens it here."
)
METRIC_LABELS = {
    KNOWS: "Knows: k-NN class accuracy, activations",
    GAIN: "Gain: k-NN accuracy minus the noised input's, over noise draws",
    "gain_knn_low": "Gain, lower end (95 %)",
    "gain_knn_high": "Gain, upper end (95 %)",
    "gain_knn_p": "p of the layer knowing no more than the input, k-NN (McNemar)",
    "gain_probe": "Gain of a linear probe over the noised input",
    "gain_probe_low": "Gain of the probe, lower end (95 %)",
    "gain_probe_high": "Gain of the probe, upper end (95 %)",
    "gain_probe_p": "p of the layer knowing no more than the input, probe (McNemar)",
    "knows_knn": "k-NN class accuracy, mean over noise draws",
    "knows_knn_sd": "Its standard deviation over noise draws",
    "knows_probe": "Linear probe's class accuracy, mean over noise draws",
    "knows_probe_sd": "The probe's standard deviation over noise draws",
    "knows_best": "Not told from the layer that knows most, k-NN (1: yes)",
    "knows_best_probe": "Not told from the layer that knows most, probe (1: yes)",
    "random_knn": "k-NN class accuracy, the layer with random weights",
    "random_probe": "Probe's class accuracy, the layer with random weights",
    DECIDES: "Decides: control rate",
    BASELINE: "Control rate without the mask",
    "knn_accuracy_map": "k-NN class accuracy, map",
    "trustworthiness": "Trustworthiness",
    "continuity": "Continuity",
    "silhouette": "Silhouette, activations",
    "silhouette_activation": "Silhouette, activations",
    "silhouette_map": "Silhouette, map",
    "sampled_effective_rank": "Effective rank",
    "sampled_intrinsic_dimension": "Intrinsic dimension (TwoNN)",
    "space_samples": "Samples behind rank and dimension",
    "held_out_variance": "Variance kept by PCA, of held-out samples",
    "effective_rank": "Effective rank, older scheme",
    "intrinsic_dimension": "Intrinsic dimension, older scheme",
    "explained_variance": "Variance kept by PCA, older scheme",
    "neighborhood_preservation": "Neighbours kept on the map",
    "nonfinite": "NaN or infinite values",
    "control_seeds": "Generations behind the control rate",
    "control_rate_low": "Control rate, lower end (95 %)",
    "control_rate_high": "Control rate, upper end (95 %)",
    "control_corrected": "Control rate, corrected by the judge's errors",
    "control_n": "Generations behind the control rate",
    "control_p": "p of the rate without the mask being the same (McNemar)",
    "control_rejects": "Masked images that the judge rejects",
    "control_rate_early": "Control rate, first half of the steps",
    "control_rate_late": "Control rate, second half of the steps",
    "control_matched": "Control rate, averages matched to each step",
    "control_global_mean": "Control: the layer's global mean",
    "control_mixed_means": "Control: means of mixed classes",
    "control_random_direction": "Control: a random direction as far",
    "control_other_layer": "Control: another layer's means",
    "control_on_manifold": "Masked images near real ones",
    "control_on_manifold_baseline": "The same without the mask",
    "control_diversity": "Diversity within a class, over real images'",
    "control_loss_ratio": "Denoising loss with the mask, over without",
}
BEST = "●"
"""Stands beside the gain of a layer that is not told from the one that knows most."""
CONTROLS = ("control_global_mean", "control_mixed_means", "control_random_direction", "control_other_layer")
UNREAL = "◌"
"""Stands beside a control rate whose images are unlike real ones."""


class SamplePanel(Part):
    """The selected sample and its neighbours."""

    def __init__(self, session: Session) -> None:
        state = session.state
        self._card = text(margin=(12, 0, 10, 0))
        self.k = field(
            pmui.IntSlider, "Neighbours to suggest", "Number of nearest samples to suggest.", start=1, end=50,
            value=state.k,
        )  # fmt: skip
        self.space = choice(
            "Nearest in", {"Activations": "activation", "Map": "map"}, state.space,
            "Measure distance between activations (PCA space), or on the drawn map, which distorts it.",
        )  # fmt: skip
        self.suggest = press("Suggest nearest", session.suggest, icon="hub", margin=(6, 4, 6, 0))
        self.clear = press("Clear", session.clear, variant="outlined", sizing_mode=None, margin=(6, 0, 6, 4))
        self._heading, self._rule = text(margin=(10, 0, 2, 0)), text(margin=(2, 0, 4, 0))
        self.list = sample_list(session, self._remove, margin=0)
        self._controls = section(self.k, self.space, row(self.suggest, self.clear), self._rule)
        self._layout = section(self._card, self._controls, self._heading, self.list, margin=(0, 16, 16, 16))
        super().__init__(session=session)

    @param.depends("session.state.selection", "session.map", "session.state.space", watch=True, on_init=True)
    def show(self) -> None:
        """Show the session's selection."""
        layer_map, chosen = self.session.map, self.session.state.selection
        selected = layer_map is not None and chosen.sample_id in layer_map.row_of
        self._controls.visible = self._heading.visible = self.list.visible = selected
        if not selected:
            self._card.object = hint("Hover over the map to see samples. Click one to select it.")
            self.list.entries = []
            return
        self._card.object = selected_card(layer_map, chosen.sample_id)
        count = len(chosen.neighbours)
        kinds = f"{len(chosen.suggested)} suggested, {len(chosen.manual)} chosen" if count else "none yet"
        self._heading.object = (
            f'<div class="title">Neighbours <span class="muted small" style="font-weight:400">{kinds}</span></div>'
        )
        self.list.empty = "Suggest the nearest samples, or click points on the map to add them by hand."
        distances = self.session.distances
        order = sorted(chosen.neighbours, key=lambda s: distances.get(s, float("inf")))
        tones = {s: "manual" if s in chosen.manual else "suggested" for s in order}
        self.list.param.update(
            entries=sample_entries(layer_map, order, distances=distances, tones=tones), more=remainder(layer_map, order)
        )
        self._rule.object = hint_small(_rule(layer_map))

    @param.depends("k.value", watch=True)
    def _change_k(self) -> None:
        self.session.state.k = self.k.value

    @param.depends("space.value", watch=True)
    def _change_space(self) -> None:
        self.session.state.space = self.space.value
        if self.session.state.selection.suggested:
            self.session.suggest()

    def _remove(self, sample_id: str) -> None:
        if sample_id in self.session.state.selection.neighbours:
            self.session.toggle(sample_id)


def _rule(layer_map: LayerMap) -> str:
    """Return what is suggested, and what a click on the map does."""
    level = f"σ {format_sigma(layer_map.layer.sigma)}"
    same = (
        f"This map holds several noise levels; only samples at {level} are suggested and averaged, for activations "
        "of different noise do not average to anything. "
        if layer_map.is_joint
        else ""
    )
    return same + "Suggested ones get thin rings. Click one on the map to remove it, any other sample to add it."


class LayersPanel(Part):
    """All layer runs of the extraction, ranked by what they know and what they decide."""

    COLUMNS = (
        column("layer", "Layer", "Hook point of the model"),
        column("sigma", "σ", "Noise level", number=True),
        column(
            KNOWS, "Knows", "Share of samples whose nearest neighbours in activation space are of their class",
            bar="knows",
        ),
        column(
            DECIDES, "Decides", "Share of generations that become the class whose average masks the layer; tick: "
            "without the mask", bar="decides", baseline=BASELINE,
        ),
    )  # fmt: skip
    GAIN_COLUMN = column(
        GAIN, "Gain", f"How much better the class is read from the layer than from the noised input; {BEST}: not told "
        "from the best layer", number=True,
    )  # fmt: skip

    def __init__(self, session: Session) -> None:
        self.table = Ranking(
            self._on_message,
            columns=list(self.COLUMNS),
            sort={"key": KNOWS, "down": True},
            margin=0,
            empty="No finished layer runs yet.",
        )
        intro = hint(
            "What a layer knows: do near samples share a class? What it decides: does masking it with a class's "
            "average make that class? Click a heading to sort, a row to open the layer."
        )
        self.left_out = text(margin=(0, 0, 8, 0))
        self._layout = section(text(intro, margin=(12, 0, 8, 0)), self.left_out, self.table, margin=(0, 12, 16, 12))
        super().__init__(session=session)

    @param.depends("session.layers", "session.map", watch=True, on_init=True)
    def show(self) -> None:
        """Show the session's layers."""
        shown = None if self.session.map is None else self.session.map.layer.run_id
        measured = any(GAIN in record.metrics for record in self.session.layers)
        self.table.columns = [*self.COLUMNS[:3], *([self.GAIN_COLUMN] if measured else []), *self.COLUMNS[3:]]
        self.table.rows = [layer_row(record, active=record.run_id == shown) for record in self.session.layers]
        lacking = [record for record in self.session.layers if KNOWS not in record.metrics]
        reasons = {without_class_measures(record.params.get("conditioning", "")) for record in lacking} - {""}
        if any(is_marked(record.metrics) for record in self.session.layers):
            reasons.add(f"{UNREAL}, hollow: most of the images are farther from any real one than 99 % of real ones.")
        self.left_out.object = hint(" ".join(sorted(reasons)))
        self.left_out.visible = bool(reasons)

    def _on_message(self, message: dict[str, Any]) -> None:
        chosen = next((r for r in self.session.layers if r.run_id == message.get("open")), None)
        if chosen is not None:
            self.session.choose_layer(chosen.layer, chosen.sigma)


def layer_row(record: LayerRecord, **further: Any) -> dict[str, Any]:
    """Return a layer run with its measures as a row of a `Ranking`."""
    named = {"id": record.run_id, "layer": record.layer, "sigma": record.sigma}
    mark = UNREAL if is_marked(record.metrics) else ""
    marks = {f"{DECIDES}_mark": mark, f"{DECIDES}_note": _rate_in_words(record.metrics)}
    if GAIN in record.metrics:
        marks |= {f"{GAIN}_text": _gain_text(record.metrics), f"{GAIN}_note": _gain_in_words(record.metrics)}
    return {**record.metrics, **named, **marks, "sigma_text": format_sigma(record.sigma), **further}


def _gain_text(metrics: Mapping[str, float]) -> str:
    """Return a gain with its sign, marked where no layer is known to know more."""
    return f"{metrics[GAIN]:+.2f}".replace("-", "−") + (f" {BEST}" if metrics.get("knows_best") == 1 else "")


def _gain_in_words(metrics: Mapping[str, float]) -> str:
    """Return what stands behind a gain."""
    own, low, high, p = (metrics[name] for name in ("knows_knn", f"{GAIN}_low", f"{GAIN}_high", f"{GAIN}_p"))
    told = [f"{own:.2f}, the noised input {own - metrics[GAIN]:.2f}", f"95 %: {low:+.2f} to {high:+.2f}, p {p:.4f}"]
    told += [f"with random weights {metrics['random_knn']:.2f}"] if "random_knn" in metrics else []
    told += [f"by a linear probe {metrics['gain_probe']:+.2f}"] if "gain_probe" in metrics else []
    return "\n".join(told).replace("-", "−")


def _rate_in_words(metrics: Mapping[str, float]) -> str:
    """Return what stands behind a control rate, '' where that was not measured."""
    if "control_n" not in metrics:
        return ""
    near, low, high = (metrics[name] for name in ("control_on_manifold", "control_rate_low", "control_rate_high"))
    told = [f"95 %: {low:.2f} to {high:.2f}, of {metrics['control_n']:.0f} generations"]
    told += [f"{METRIC_LABELS[name]}: {metrics[name]:.2f}" for name in CONTROLS if name in metrics]
    return "\n".join([*told, f"{near:.0%} of the images are near real ones"])


class RunPanel(Part):
    """What is known of the runs on show, with links to MLflow."""

    def __init__(self, session: Session) -> None:
        self._layout = text(margin=(12, 16))
        super().__init__(session=session)

    @param.depends("session.map", "session.extractions", watch=True, on_init=True)
    def show(self) -> None:
        """Show the session's run."""
        layer_map, state = self.session.map, self.session.state
        if layer_map is None:
            self._layout.object = hint("Nothing is open.")
            return
        url = self.session.store.library.run_url
        run = run_facts(layer_map)
        links = [link(url(layer_map.map_run), "Open this run in MLflow")]
        if layer_map.map_run != layer_map.layer.run_id:
            run["Map run"] = layer_map.map_run
            links.append(link(url(layer_map.layer.run_id), "Open its layer run in MLflow"))
        links.append(link(url(state.extraction), "Open its parent run in MLflow"))
        ordered = {name: place for place, name in enumerate(METRIC_LABELS)}
        measured = sorted(layer_map.layer.metrics.items(), key=lambda m: (ordered.get(m[0], len(ordered)), m[0]))
        metrics = [(METRIC_LABELS.get(k, k), v) for k, v in measured if k != "nan_count"]  # `nonfinite` says it
        self._layout.object = "".join(
            [
                '<div class="overline" style="margin-bottom:4px">Run</div>',
                facts(run),
                *(f'<p style="margin-top:8px">{a}</p>' for a in links if a),
                f'<div style="margin-top:8px">{hint_small(_BACK)}</div>',
                '<div class="overline" style="margin:18px 0 4px">Measures</div>',
                facts(metrics) if metrics else hint("This run has no measures."),
                '<div class="overline" style="margin:18px 0 4px">Parameters</div>',
                facts(sorted(layer_map.layer.params.items()))
                if layer_map.layer.params
                else hint("This run has no parameters."),
            ]
        )
