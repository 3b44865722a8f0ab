"""The `embed` job: a further map of a logged layer, of its own sigma, joint over sigmas, or aligned along them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from diffviews.errors import ConfigError, RunNotFoundError
from diffviews.noise import format_sigma
from diffviews.pipelines.layers.measured_map import MeasuredMap, log_map, map_title, measure, measure_map
from diffviews.pipelines.plan import check_sigmas
from diffviews.pipelines.workspace import Workspace, is_sketch, open_workspace
from diffviews.processing.fitting import fit_aligned_map, fit_aligned_reduced, fit_joint_map, fit_reduced
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.sketch import reduction_of
from diffviews.processing.umap_backend import get_backend_name
from diffviews.tracking.catalog import LayerRecord
from diffviews.tracking.schema import MapKind, RunTags, fingerprint


@dataclass(frozen=True, slots=True)
class EmbedOutcome:
    """The logged map."""

    run_id: str
    reused: bool

    def __str__(self) -> str:
        return f"map {self.run_id} {'re-used' if self.reused else 'finished'}"


def embed(
    layer_run: str,
    parameters: MapParameters,
    workspace: Workspace,
    *,
    kind: MapKind = MapKind.SINGLE,
    sigmas: Sequence[float] = (),
    force: bool = False,
) -> EmbedOutcome:
    """Compute and log a map of a layer; the layer run and its own map stay as they are.

    Args:
        layer_run: run id of the layer.
        parameters: of the map.
        workspace: where the layer run is found and the map logged.
        kind: single, of the layer run's own sigma; joint, several sigmas in one space; aligned, a
            slice a sigma with the same sample near itself.
        sigmas: noise levels of a joint or aligned map, of the same extraction; empty takes all.
        force: compute again even if a finished map has the same fingerprint.

    Raises:
        RunNotFoundError: if the layer has no run at one of the sigmas.
        ConfigError: if sigmas are named for a single map.
    """
    chosen = workspace.catalog.layer(layer_run)
    records = _levels(chosen, kind, sigmas, workspace)
    digest = fingerprint(
        kind="embedding",
        map=kind.value,
        sources=[record.fingerprint for record in records.values()],
        parameters=asdict(parameters),
        backend=get_backend_name(),
    )
    finished = None if force else workspace.tracker.find_finished(digest)
    if finished is not None:
        workspace.tracker.mark_reused(finished)
        return EmbedOutcome(finished, reused=True)
    tags = RunTags(
        model=chosen.model,
        dataset=chosen.dataset,
        fingerprint=digest,
        layer=chosen.layer,
        layer_index=chosen.layer_index,
        sigma=chosen.sigma if kind is MapKind.SINGLE else None,
        source_run=layer_run,
        map=kind,
    )
    levels = ",".join(map(format_sigma, records))
    name = f"{kind.value} map of {chosen.layer} σ {levels}"
    with workspace.tracker.start(
        "embedding", name, tags, params={**asdict(parameters), "map": kind.value, "sigmas": levels}
    ) as run:
        for sigma, measured in _maps(chosen, records, kind, parameters, workspace).items():
            log_map(run, measured, slice_sigma=sigma)
    return EmbedOutcome(run.run_id, reused=False)


def _levels(
    chosen: LayerRecord, kind: MapKind, sigmas: Sequence[float], workspace: Workspace
) -> Mapping[float, LayerRecord]:
    """Return the layer runs of the map by sigma, ascending."""
    if kind is MapKind.SINGLE:
        if sigmas:
            raise ConfigError("sigmas are for joint and aligned maps; a single map has that of its layer run")
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
    if any(map(is_sketch, records.values())):
        return _maps_of_sketches(chosen, records, kind, parameters, workspace)
    readers = {sigma: workspace.activations(record) for sigma, record in records.items()}
    ids = {reader.sample_ids for reader in readers.values()}
    if len(ids) > 1:
        raise ConfigError(
            f"layer {chosen.layer!r} holds different samples at sigmas {', '.join(map(format_sigma, readers))}; "
            "a map over several sigmas needs the same ones at each"
        )
    samples = workspace.samples_of(chosen).select(ids.pop())
    if kind is MapKind.SINGLE:
        (reader,) = readers.values()
        title = map_title(chosen.model, chosen.layer, chosen.sigma)
        return {None: measure_map(reader, samples, parameters, title=title)}
    if kind is MapKind.JOINT:
        fitted = fit_joint_map(readers, samples.sample_ids, parameters)
        title = f"{chosen.model} · {chosen.layer} · σ {', '.join(map(format_sigma, readers))} joint"
        return {None: measure(fitted, samples, title=title)}
    slices = fit_aligned_map(readers, samples.sample_ids, parameters)
    return {
        sigma: measure(fitted, samples, title=map_title(chosen.model, chosen.layer, sigma))
        for sigma, fitted in slices.items()
    }


def _maps_of_sketches(
    chosen: LayerRecord,
    records: Mapping[float, LayerRecord],
    kind: MapKind,
    parameters: MapParameters,
    workspace: Workspace,
) -> dict[float | None, MeasuredMap]:
    """Return the measured maps of layer runs that keep sketches, from the vectors in their maps."""
    if kind is MapKind.JOINT:
        raise ConfigError(
            f"layer {chosen.layer!r} keeps a sketch on axes of its own at each sigma, and a joint map needs the same "
            "for all; make an aligned map, or extract with storage full"
        )
    reductions, ids = {}, set()
    for sigma, record in records.items():
        (projector,) = workspace.projectors(record.run_id).values()
        reductions[sigma] = reduction_of(projector, parameters)
        ids.add(projector.sample_ids)
    if len(ids) > 1:
        raise ConfigError(f"layer {chosen.layer!r} holds different samples at different sigmas; align the same ones")
    samples = workspace.samples_of(chosen).select(ids.pop())
    if kind is MapKind.SINGLE:
        (reduction,) = reductions.values()
        fitted = fit_reduced(reduction, samples.sample_ids, parameters)
        return {None: measure(fitted, samples, title=map_title(chosen.model, chosen.layer, chosen.sigma))}
    slices = fit_aligned_reduced(reductions, samples.sample_ids, parameters)
    return {
        sigma: measure(fitted, samples, title=map_title(chosen.model, chosen.layer, sigma))
        for sigma, fitted in slices.items()
    }


def embed_command(
    layer_run: str,
    map: Literal["single", "joint", "aligned"] = "single",
    sigmas: tuple[float, ...] = (),
    *,
    parameters: MapParameters = MapParameters(),
    force: bool = False,
    profile: str | None = None,
    experiment: str | None = None,
) -> EmbedOutcome:
    """Compute a further map of a logged layer: with other parameters, joint over sigmas, or aligned along them.

    Args:
        layer_run: run id of the layer.
        map: single, joint (several sigmas in one space) or aligned (a slice a sigma).
        sigmas: noise levels of a joint or aligned map; empty takes all of the extraction.
        parameters: of the map.
        force: compute again even if a finished map has the same fingerprint.
        profile: tracking profile of mlruns_config.
        experiment: MLflow experiment name.
    """
    workspace = open_workspace(profile, experiment)
    return embed(layer_run, parameters, workspace, kind=MapKind(map), sigmas=sigmas, force=force)
