"""The catalog of logged runs, found by their tags and never by name or path."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Self, TypeVar

from diffviews.data.storage.cache import check_fingerprint
from diffviews.errors import RunNotFoundError, SchemaVersionError, unknown_name
from diffviews.tracking.artifacts import ArtifactFolder
from diffviews.tracking.connection import Connection, check_run_id
from diffviews.tracking.profiles import Profile, activate, find_profile
from diffviews.tracking.records import (
    ExperimentRecord,
    ExtractionRecord,
    GenerationRecord,
    LayerRecord,
    MapRecord,
    RunRecord,
)
from diffviews.tracking.schema import Kind, Tag

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.store.entities import PagedList
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=RunRecord)
T = TypeVar("T")

_PAGE = 1000
_EXTRACTIONS = (Kind.EXTRACT, Kind.IMPORT, Kind.GENERATE_DATASET)
"""Kinds of runs whose children are layer runs; a generated sample set has them if layers were asked for."""


class Catalog:
    """Reads one tracking store; usable from several threads.

    Lists hold FINISHED runs, newest first, unless `unfinished=True` asks for all. Each costs one
    query for the experiments and one per thousand runs. A run of a newer schema is left out of a
    list, with the reason in the log; asked for by id it raises.

    Args:
        profile: a profile, the name of one, or a tracking address; None takes `load_profile()`.

    Raises:
        ConfigError: if the profile or the address is malformed.
        TrackingError: if the store cannot be used.
    """

    def __init__(self, profile: Profile | str | None = None) -> None:
        self.profile = activate(find_profile(profile))
        self.connection = Connection(self.profile.tracking_uri)

    def __reduce__(self) -> tuple[type[Self], tuple[Profile]]:
        """Open the store anew in the process that this is sent to."""
        return type(self), (self.profile,)

    def experiments(self) -> tuple[ExperimentRecord, ...]:
        """Return all experiments, by name."""
        found = self._pages(lambda client, token: client.search_experiments(max_results=_PAGE, page_token=token))
        records = [ExperimentRecord(e.experiment_id, e.name, e.artifact_location) for e in found]
        return tuple(sorted(records, key=lambda experiment: experiment.name))

    def extractions(
        self, experiment: str | None = None, *, model: str | None = None, unfinished: bool = False
    ) -> tuple[ExtractionRecord, ...]:
        """Return extractions, imports and generated sets with layers, of one experiment or all, of one model or all.

        Raises:
            RunNotFoundError: if there is no such experiment.
        """
        found = [
            record
            for kind in _EXTRACTIONS
            for record in self._list(ExtractionRecord, kind, experiment=experiment, unfinished=unfinished)
            if (model is None or record.model == model) and record.has_layers
        ]
        return tuple(sorted(found, key=lambda record: record.start_time, reverse=True))

    def layers(self, extraction_run_id: str, *, unfinished: bool = False) -> tuple[LayerRecord, ...]:
        """Return the layer runs of an extraction in the network's order, then by sigma."""
        found = self._list(
            LayerRecord, Kind.LAYER, {Tag.PARENT: check_run_id(extraction_run_id)}, unfinished=unfinished
        )
        shared = self._params_of(extraction_run_id) if found else {}
        return tuple(sorted((r.with_shared(shared) for r in found), key=lambda record: record.network_order))

    def layer(self, run_id: str) -> LayerRecord:
        """Return one layer run, finished or not.

        Raises:
            RunNotFoundError: if there is no such run, or it is no layer run.
            SchemaVersionError: if a newer DiffViews logged it.
        """
        record = self._one(LayerRecord, (Kind.LAYER,), run_id)
        return record.with_shared(self._params_of(record.parent_id))

    def layers_of_rows(self, rows: str) -> tuple[LayerRecord, ...]:
        """Return the finished layer runs whose rows depend on the same (`RunTags.rows`), newest first."""
        return self._list(LayerRecord, Kind.LAYER, {Tag.ROWS: check_fingerprint(rows)})

    def _params_of(self, run_id: str | None) -> Mapping[str, str]:
        """Return the params of a parent run; none where it was deleted."""
        if run_id is None:
            return {}
        try:
            return dict(self._run(run_id).data.params)
        except RunNotFoundError:
            return {}

    def extraction(self, run_id: str) -> ExtractionRecord:
        """Return one extraction, import or generated set; raises as `layer` does."""
        return self._one(ExtractionRecord, _EXTRACTIONS, run_id)

    def map(self, run_id: str) -> MapRecord:
        """Return one re-computed map; raises as `layer` does."""
        return self._one(MapRecord, (Kind.EMBEDDING,), run_id)

    def run(self, run_id: str) -> RunRecord:
        """Return one run of any kind; raises as `layer` does."""
        return self._one(RunRecord, tuple(Kind), run_id)

    def generation(self, run_id: str) -> GenerationRecord:
        """Return one generation; raises as `layer` does."""
        return self._one(GenerationRecord, (Kind.GENERATION,), run_id)

    def maps(self, layer_run_id: str, *, unfinished: bool = False) -> tuple[MapRecord, ...]:
        """Return the maps that were re-computed from a layer run."""
        source = {Tag.SOURCE_RUN: check_run_id(layer_run_id)}
        return self._list(MapRecord, Kind.EMBEDDING, source, unfinished=unfinished)

    def generations(
        self, layer_run_id: str | None = None, *, experiment: str | None = None, unfinished: bool = False
    ) -> tuple[GenerationRecord, ...]:
        """Return the generations, those masked from one layer run or all."""
        source = {} if layer_run_id is None else {Tag.SOURCE_RUN: check_run_id(layer_run_id)}
        return self._list(GenerationRecord, Kind.GENERATION, source, experiment=experiment, unfinished=unfinished)

    def runs(
        self, kind: Kind | str, *, experiment: str | None = None, unfinished: bool = False
    ) -> tuple[RunRecord, ...]:
        """Return the runs of any kind, for example 'train'."""
        return self._list(RunRecord, Kind(kind), experiment=experiment, unfinished=unfinished)

    def artifacts(self, run: RunRecord | str) -> ArtifactFolder:
        """Return the artifacts of a run, given by its record or its id.

        Raises:
            RunNotFoundError: if there is no such run.
        """
        if isinstance(run, RunRecord):
            sealed = run.manifest if run.is_finished else None
            return ArtifactFolder(
                run.run_id, run.artifact_uri, self.connection, finished=run.is_finished, sealed=sealed
            )
        found = self._run(run)
        finished = found.info.status == "FINISHED"
        sealed = found.data.tags.get(Tag.MANIFEST) if finished else None
        address = found.info.artifact_uri
        return ArtifactFolder(found.info.run_id, address, self.connection, finished=finished, sealed=sealed)

    def _run(self, run_id: str) -> "Run":
        check_run_id(run_id)
        return self.connection.call(lambda client: client.get_run(run_id))

    def _one(self, record: type[R], kinds: Sequence[Kind], run_id: str) -> R:
        run = self._run(run_id)
        found = record.of_run(run, self._experiment_names())
        if found.kind not in kinds:
            raise RunNotFoundError(f"run {run_id} is of kind {found.kind.value}, not {' or '.join(kinds)}")
        return found

    def _experiment_names(self) -> dict[str, str]:
        return {experiment.experiment_id: experiment.name for experiment in self.experiments()}

    def _list(
        self,
        record: type[R],
        kind: Kind,
        tags: dict[str, str] | None = None,
        *,
        experiment: str | None = None,
        unfinished: bool = False,
    ) -> tuple[R, ...]:
        names = self._experiment_names()
        chosen = [key for key, name in names.items() if experiment is None or experiment in (name, key)]
        if experiment is not None and not chosen:
            raise RunNotFoundError(unknown_name("experiment", experiment, sorted(names.values())))
        conditions = [f"tags.`{name}` = '{value}'" for name, value in {Tag.KIND: kind.value, **(tags or {})}.items()]
        if not unfinished:
            conditions.append("attributes.status = 'FINISHED'")
        records, skipped = list[R](), list[str]()
        for run in self._search(chosen, " and ".join(conditions)):
            try:
                records.append(record.of_run(run, names))
            except SchemaVersionError as error:
                skipped.append(f"{run.info.run_id} ({run.info.run_name}): {error}")
        if skipped:
            logger.warning("%d runs of kind %s are left out; the first is %s", len(skipped), kind.value, skipped[0])
        return tuple(records)

    def _search(self, experiment_ids: list[str], condition: str) -> "list[Run]":
        order = ["attributes.start_time DESC"]
        if not experiment_ids:
            return []
        return self._pages(
            lambda client, token: client.search_runs(
                experiment_ids, condition, max_results=_PAGE, order_by=order, page_token=token
            )
        )

    def _pages(self, search: "Callable[[MlflowClient, str | None], PagedList[T]]") -> list[T]:
        """Return what a search finds, asked for page by page."""

        def page_at(token: str | None) -> "PagedList[T]":
            return self.connection.call(lambda client: search(client, token))

        page = page_at(None)
        found = list(page)
        while page.token:
            page = page_at(page.token)
            found += page
        return found
