"""The `embed` job: a further map of a logged layer, of its own sigma, joint over sigmas, or aligned along them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from diffviews.errors import ConfigError, RunNotFoundError
from diffviews.noise import format_sigma
from diffviews.pipelines.layers.measured_map import MeasuredMap, log_map, map_title, measure
from diffviews.pipelines.plan import check_sigmas
from diffviews.pipelines.workspace import Workspace, is_sketch
from diffviews.processing.fitting import fit_aligned_map, fit_joint_map, fit_map
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.sketch import reduction_of
from diffviews.processing.umap_backend import get_backend_name
from diffviews.recipes import EmbeddingRecipe
from diffviews.recipes.options import flatten
from diffviews.tracking.catalog import LayerRecord
from diffviews.tracking.notes import Note, code
from diffviews.tracking.schema import MapKind, fingerprint


@dataclass(frozen=True, slots=True)
class EmbeddingResult:
    """The logged map."""

    run_id: str
    reused: bool

    def __str__(self) -> str:
        return f"map {self.run_id} {'re-used' if self.reused else 'finished'}"


def embed(recipe: EmbeddingRecipe, workspace: Workspace, *, force: bool = False) -> EmbeddingResult:
    """Compute a further map of a logged layer: with other parameters, joint over sigmas, or aligned along them.

    The layer run and its own map stay as they are.

    Args:
        recipe: which map, of which layer.
        workspace: where the layer run is found and the map logged.
        force: compute again even if a finished map has the same fingerprint.

    Raises:
        RunNotFoundError: if the layer has no run at one of the sigmas.
    """
    chosen, kind, parameters = workspace.catalog.layer(recipe.layer_run), MapKind(recipe.map), recipe.maps
    records = _levels(chosen, kind, recipe.sigmas, workspace)
    digest = fingerprint(
        kind="embedding",
        map=kind.value,
        sources=[record.fingerprint for record in records.values()],
        parameters=asdict(parameters),
        backend=get_backend_name(),
        **recipe.determining(),
    )
    finished = None if force else workspace.tracker.find_finished(digest)
    if finished is not None:
        workspace.tracker.mark_reused(finished)
        return EmbeddingResult(finished, reused=True)
    tags = chosen.derived_tags(fingerprint=digest, sigma=chosen.sigma if kind is MapKind.SINGLE else None, map=kind)
    levels = ",".join(map(format_sigma, records))
    name, params = f"{kind.value} map of {chosen.layer} σ {levels}", {**flatten(recipe), "sigmas": levels}
    told = f"{kind.value.capitalize()} map of {code(chosen.layer)} of {code(chosen.model)} at σ {levels}."
    note = Note(told, recipe.command())
    with workspace.tracker.start("embedding", name, tags, params=params, note=note) as run:
        run.log_text(recipe.to_json(), "config.json")
        for sigma, measured in _maps(chosen, records, kind, parameters, workspace).items():
            log_map(run, measured, slice_sigma=sigma)
    return EmbeddingResult(run.run_id, reused=False)


def _levels(
    chosen: LayerRecord, kind: MapKind, sigmas: Sequence[float], workspace: Workspace
) -> Mapping[float, LayerRecord]:
    """Return the layer runs of the map by sigma, ascending."""
    if kind is MapKind.SINGLE:
        return {chosen.sigma: chosen}
    found = {r.sigma: r for r in workspace.catalog.layers(chosen.parent_id) if r.layer == chosen.layer}
    wanted = check_sigmas(sigmas) if sigmas else tuple(sorted(found))
    for sigma in wanted:
        if sigma not in found:
            have = ", ".join(map(format_sigma, sorted(found)))
            raise RunNotFoundError(
                f"layer {chosen.layer!r} has no run at sigma {format_sigma(sigma)} in this extraction, only at {have}"
            )
    return {sigma: found[sigma] for sigma in wanted}


def _maps(
    chosen: LayerRecord,
    records: Mapping[float, LayerRecord],
    kind: MapKind,
    parameters: MapParameters,
    workspace: Workspace,
) -> dict[float | None, MeasuredMap]:
    """Return the measured maps: one under None, or a slice a sigma when aligned."""
    sketched = any(map(is_sketch, records.values()))
    if sketched and kind is MapKind.JOINT:
        raise ConfigError(
            f"layer {chosen.layer!r} keeps a sketch on axes of its own at each sigma, and a joint map needs the same "
            "for all; make an aligned map, or extract with storage full"
        )
    held, ids = dict[float, Any](), set[tuple[str, ...]]()
    for sigma, record in records.items():
        if sketched:  # the vectors are the points of its map
            source: Any = next(iter(workspace.projectors(record.run_id).values()))
            held[sigma] = reduction_of(source, parameters)
        else:
            source = held[sigma] = workspace.activations(record)
        ids.add(source.sample_ids)
    if len(ids) > 1:
        raise ConfigError(
            f"layer {chosen.layer!r} holds different samples at sigmas {', '.join(map(format_sigma, held))}; "
            "a map over several sigmas needs the same ones at each"
        )
    samples, told = workspace.samples_of(chosen).select(ids.pop()), chosen.params.get("conditioning", "none")
    if kind is MapKind.ALIGNED:
        slices = fit_aligned_map(held, samples.sample_ids, parameters)
        return {
            sigma: measure(fitted, samples, title=map_title(chosen.model, chosen.layer, sigma), conditioning=told)
            for sigma, fitted in slices.items()
        }
    if kind is MapKind.JOINT:
        fitted = fit_joint_map(held, samples.sample_ids, parameters)
        title = f"{chosen.model} · {chosen.layer} · σ {', '.join(map(format_sigma, held))} joint"
        return {None: measure(fitted, samples, title=title, conditioning=told)}
    title = map_title(chosen.model, chosen.layer, chosen.sigma)
    fitted = fit_map(held[chosen.sigma], samples.sample_ids, parameters)
    return {None: measure(fitted, samples, title=title, conditioning=told)}
