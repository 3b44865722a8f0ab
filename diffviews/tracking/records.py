"""What the catalog says of a run: immutable values, free of MLflow's own types."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from diffviews.errors import SchemaVersionError
from diffviews.tracking.schema import Kind, RunTags, Tag

if TYPE_CHECKING:
    from mlflow.entities import Run


_SHARED = ("model", "dataset", "layer", "layer_index", "sigma", "adapter_partial")
"""Tags that a run has in common with the one it is made from."""


@dataclass(frozen=True, slots=True)
class ExperimentRecord:
    """One experiment: its id, its name, and where its artifacts lie."""

    experiment_id: str
    name: str
    artifact_location: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord(RunTags):
    """One logged run, and what it is about.

    Attributes:
        run_id: MLflow's id.
        name: as shown; nothing is found by it.
        kind: what it is.
        status: RUNNING, FINISHED, FAILED or KILLED.
        experiment_id: of its experiment.
        experiment: name of its experiment.
        parent_id: run of the job it belongs to.
        start_time: when it started, UTC.
        end_time: when it ended; None while it is RUNNING.
        artifact_uri: where its artifacts lie.
        error: the sentence it failed with.
        metrics: last value of each.
        params: as logged.
        manifest: SHA-256 of the manifest of its artifacts; None while it is not finished.
    """

    run_id: str
    name: str
    kind: Kind
    status: str
    experiment_id: str
    experiment: str
    parent_id: str | None
    start_time: datetime
    end_time: datetime | None
    artifact_uri: str
    error: str | None
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    manifest: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether its manifest is logged and its result whole."""
        return self.status == "FINISHED"

    @property
    def ui_path(self) -> str:
        """Its place in the MLflow UI, below the server's address."""
        return ui_path(self.experiment_id, self.run_id)

    def derived_tags(self, **changes: Any) -> RunTags:
        """Return the tags of a run that is made from this one: about the same layer, with this run as its source."""
        shared = {name: getattr(self, name) for name in _SHARED}
        return RunTags(**{**shared, "source_run": self.run_id, **changes})

    @classmethod
    def of_run(cls, run: "Run", experiments: Mapping[str, str]) -> Self:
        """Read an MLflow run; `experiments` maps ids to names.

        Raises:
            SchemaVersionError: if a newer DiffViews logged it, or its tags are unreadable.
        """
        info, tags = run.info, run.data.tags
        about = RunTags.from_tags(tags)
        try:
            kind = Kind(tags.get(Tag.KIND, ""))
        except ValueError as error:
            raise SchemaVersionError(f"the run's kind {tags.get(Tag.KIND)!r} is unknown; upgrade DiffViews") from error
        if kind is Kind.LAYER and (about.layer is None or about.sigma is None):
            raise SchemaVersionError(f"the layer run lacks its tag {Tag.LAYER} or {Tag.SIGMA}")
        ended = info.end_time is not None and info.status != "RUNNING"
        return cls(
            **{field.name: getattr(about, field.name) for field in fields(about)},
            run_id=info.run_id,
            name=info.run_name or info.run_id,
            kind=kind,
            status=info.status,
            experiment_id=info.experiment_id,
            experiment=experiments.get(info.experiment_id, info.experiment_id),
            parent_id=tags.get(Tag.PARENT),
            start_time=_instant(info.start_time),
            end_time=_instant(info.end_time) if ended else None,
            artifact_uri=info.artifact_uri,
            error=tags.get(Tag.ERROR),
            metrics=MappingProxyType(dict(run.data.metrics)),
            params=MappingProxyType(dict(run.data.params)),
            manifest=tags.get(Tag.MANIFEST),
        )


@dataclass(frozen=True, slots=True)
class ExtractionRecord(RunRecord):
    """The parent run of an extraction, an import or a generated set; its layer runs are its children."""

    @property
    def has_layers(self) -> bool:
        """Whether layer runs belong to it; a generated set has them only if layers were asked for."""
        return self.kind is not Kind.GENERATE_DATASET or self.params.get("layers", "0") != "0"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecord(RunRecord):
    """One layer at one sigma: activations, map and metrics, a child of its extraction, whose params are its own too."""

    parent_id: str
    model: str
    layer: str
    sigma: float

    def with_shared(self, params: Mapping[str, str]) -> Self:
        """Return the record with the params that its parent holds for all layer runs; its own go first."""
        return replace(self, params=MappingProxyType({**params, **self.params}))

    @property
    def network_order(self) -> tuple[bool, int, str, float]:
        """Sorting key: the network's order, then the name, then sigma; unplaced layers last."""
        index = self.layer_index
        return (index is None, index or 0, self.layer or "", self.sigma if self.sigma is not None else 0.0)


@dataclass(frozen=True, slots=True)
class MapRecord(RunRecord):
    """A map made of a layer run, or several, after it; `source_run` is that layer run."""


@dataclass(frozen=True, slots=True)
class GenerationRecord(RunRecord):
    """One generation; `source_run` is the layer run whose samples gave the mask."""


def _instant(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def ui_path(experiment_id: str, run_id: str) -> str:
    """Return a run's place in the MLflow UI; without its end MLflow 3 opens among traces of language models."""
    return f"/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"
