"""The run schema: which tags every run carries, and the fingerprint that allows a result's reuse."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import PurePath
from typing import Any, TypeVar

from diffviews.errors import ConfigError, SchemaVersionError, unknown_name

SCHEMA_VERSION = 1

E = TypeVar("E", bound=StrEnum)


class Tag:
    """Names of the tags that DiffViews writes; `PARENT` is MLflow's own."""

    KIND = "diffviews.kind"
    SCHEMA = "diffviews.schema"
    MODEL = "diffviews.model"
    LAYER = "diffviews.layer"
    LAYER_INDEX = "diffviews.layer_index"
    SIGMA = "diffviews.sigma"
    DATASET = "diffviews.dataset"
    SOURCE_RUN = "diffviews.source_run"
    FINGERPRINT = "diffviews.fingerprint"
    ROWS = "diffviews.rows"
    MAP = "diffviews.map"
    ERROR = "diffviews.error"
    REUSED_RUN = "diffviews.reused_run"
    MANIFEST = "diffviews.manifest"
    WRITER = "diffviews.writer"
    PARENT = "mlflow.parentRunId"


class Kind(StrEnum):
    """What a run is."""

    TRAIN = "train"
    GENERATE_DATASET = "generate-dataset"
    IMPORT = "import"
    EXTRACT = "extract"
    LAYER = "layer"
    EMBEDDING = "embedding"
    GENERATION = "generation"
    BENCHMARK = "benchmark"
    EXPORT = "export"
    ATLAS = "atlas"


class MapKind(StrEnum):
    """Which samples at which sigmas share the space of a map."""

    SINGLE = "single"
    JOINT = "joint"
    ALIGNED = "aligned"


@dataclass(frozen=True, slots=True)
class RunTags:
    """What a run is about; a field that is None leaves its tag out.

    Attributes:
        model: adapter name.
        dataset: sample set, as the source notation or its digest.
        fingerprint: digest of everything that determines the result, from `fingerprint`.
        layer: hook point, or the name of a combined layer; of a generation every layer that is masked, by commas.
        layer_index: position of the layer in the network's order, from 0.
        sigma: noise level in EDM units; absent on parents.
        source_run: id of the run whose artifacts this one was made from.
        map: kind of map that the run holds.
        adapter_partial: modules of a LoRA that the model did not take, in words.
        map_layer: layer on whose map a generation's path is drawn.
        rows: digest of what determines a sample's activations, apart from layer, noise level and the sample.
    """

    model: str | None = None
    dataset: str | None = None
    fingerprint: str | None = None
    layer: str | None = None
    layer_index: int | None = None
    sigma: float | None = None
    source_run: str | None = None
    map: MapKind | None = None
    adapter_partial: str | None = None
    map_layer: str | None = None
    rows: str | None = None

    def __post_init__(self) -> None:
        if self.sigma is not None and not (math.isfinite(self.sigma) and self.sigma >= 0):
            raise ConfigError(f"sigma {self.sigma!r} must be finite and not negative")
        if self.layer_index is not None and self.layer_index < 0:
            raise ConfigError(f"layer index {self.layer_index} must not be negative")
        if self.map is not None:
            object.__setattr__(self, "map", _member(MapKind, "map", self.map))

    def filled_from(self, parent: "RunTags") -> "RunTags":
        """Return these tags with what its model and its data are taken from `parent` where absent.

        The MLflow UI filters a child by the child's own tags, so a child repeats its parent's.
        """
        own = ("model", "dataset", "adapter_partial")
        return replace(self, **{name: getattr(self, name) or getattr(parent, name) for name in own})

    def as_tags(self, kind: Kind | str) -> dict[str, str]:
        """Return the MLflow tags of a run of `kind`, schema version included.

        Raises:
            ConfigError: if the kind is unknown, or a layer run lacks its layer or sigma.
        """
        from diffviews.noise import format_sigma  # here, since it loads torch

        kind = _member(Kind, "kind", kind)
        if kind is Kind.LAYER and (self.layer is None or self.sigma is None):
            raise ConfigError(f"a layer run needs layer and sigma, got {self.layer!r} and {self.sigma!r}")
        tags = {Tag.KIND: kind.value, Tag.SCHEMA: str(SCHEMA_VERSION)}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                tags[f"diffviews.{field.name}"] = format_sigma(value) if field.name == "sigma" else str(value)
        return tags

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> "RunTags":
        """Read the tags of a logged run.

        Raises:
            SchemaVersionError: if the schema is newer than this program, or a tag is unreadable.
        """
        check_schema(tags)
        present = {field.name: tags.get(f"diffviews.{field.name}") for field in fields(cls)}
        values: dict[str, Any] = {name: text for name, text in present.items() if text is not None}
        try:
            if "sigma" in values:
                values["sigma"] = float(values["sigma"])
            if "layer_index" in values:
                values["layer_index"] = int(values["layer_index"])
            return cls(**values)
        except ValueError as error:
            raise SchemaVersionError(f"a tag of the run is unreadable: {error}") from error


def _member(options: type[E], what: str, value: str) -> E:
    try:
        return options(value)
    except ValueError as error:
        raise ConfigError(unknown_name(what, value, [option.value for option in options])) from error


def check_schema(tags: Mapping[str, str]) -> None:
    """Refuse tags written under a schema that this program cannot read.

    Raises:
        SchemaVersionError: if the version is missing, no number, or newer than `SCHEMA_VERSION`.
    """
    written = tags.get(Tag.SCHEMA)
    if written is None:
        raise SchemaVersionError(f"the run has no tag {Tag.SCHEMA}, so DiffViews did not log it")
    if not written.isdecimal() or int(written) < 1:
        raise SchemaVersionError(f"schema version {written!r} is not a positive whole number")
    if int(written) > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"the run has schema version {written}, this DiffViews reads up to {SCHEMA_VERSION}; upgrade DiffViews"
        )


def fingerprint(**what: Any) -> str:
    """Return the SHA-256 of everything that determines a result, as 64 hex digits.

    Order of names and of mapping keys has no effect, 2 and 2.0 are the same, a list and a tuple
    are the same, a set is sorted. The schema version is part of it.

    Raises:
        ConfigError: if a value has no canonical form (NaN, an array, an arbitrary object).
    """
    canonical = {"schema": SCHEMA_VERSION, "what": {name: _canonical(v, name) for name, v in what.items()}}
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any, name: str) -> Any:
    if value is None or isinstance(value, bool | str):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, int | float):
        return _canonical_number(value, name)
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, Mapping):
        return {"map": [[str(k), _canonical(value[k], name)] for k in sorted(value, key=str)]}
    if isinstance(value, frozenset | set):
        return {"set": sorted((_canonical(item, name) for item in value), key=json.dumps)}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_canonical(item, name) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a scalar of numpy or torch
        return _canonical(value.item(), name)
    if hasattr(value, "__dataclass_fields__"):
        return {"fields": [[f.name, _canonical(getattr(value, f.name), name)] for f in fields(value)]}
    raise ConfigError(f"{name}={value!r} cannot be part of a fingerprint; give text, numbers or a digest instead")


def _canonical_number(value: int | float, name: str) -> int | float:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"{name}={value!r} cannot be part of a fingerprint; it must be finite")
        if value.is_integer() and abs(value) < 2**53:
            return int(value)
    return value
