"""Tracking: every job, layer, map and generation is an MLflow run, and is found again by its tags."""

from diffviews.data.storage.manifest import Manifest
from diffviews.data.storage.names import check_name
from diffviews.tracking.active_run import ActiveRun
from diffviews.tracking.artifacts import ArtifactFolder
from diffviews.tracking.catalog import Catalog
from diffviews.tracking.profiles import Profile, activate, load_profile, profile_names
from diffviews.tracking.records import (
    ExperimentRecord,
    ExtractionRecord,
    GenerationRecord,
    LayerRecord,
    MapRecord,
    RunList,
    RunRecord,
    SkippedRun,
)
from diffviews.tracking.runs import Tracker
from diffviews.tracking.schema import SCHEMA_VERSION, Kind, MapKind, RunTags, Tag, fingerprint

__all__ = [
    "SCHEMA_VERSION",
    "ActiveRun",
    "ArtifactFolder",
    "Catalog",
    "ExperimentRecord",
    "ExtractionRecord",
    "GenerationRecord",
    "Kind",
    "LayerRecord",
    "Manifest",
    "MapKind",
    "MapRecord",
    "Profile",
    "RunList",
    "RunRecord",
    "RunTags",
    "SkippedRun",
    "Tag",
    "Tracker",
    "activate",
    "check_name",
    "fingerprint",
    "load_profile",
    "profile_names",
]
