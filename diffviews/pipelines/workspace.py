"""A workspace: one tracking store, opened, with what its runs hold read back as objects."""

from dataclasses import dataclass
from pathlib import Path

from diffviews.adapters.condition import Condition
from diffviews.data.activations import ActivationReader
from diffviews.data.samples import SampleSet
from diffviews.data.storage.object_store import ObjectStore
from diffviews.errors import ConfigError, DiffViewsError, RunNotFoundError
from diffviews.noise import format_sigma
from diffviews.processing.projector import Projector
from diffviews.processing.sketch import SKETCH_FILE, SketchRecord
from diffviews.tracking.artifacts import ArtifactFolder
from diffviews.tracking.catalog import Catalog, LayerRecord
from diffviews.tracking.profiles import Profile, activate, load_profile
from diffviews.tracking.records import RunRecord
from diffviews.tracking.runs import Tracker


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where jobs find earlier runs and log new ones. Safe to share between threads."""

    tracker: Tracker
    catalog: Catalog

    @property
    def profile(self) -> Profile:
        """The tracking set-up: tracking server, artifacts, model registry."""
        return self.catalog.profile

    @property
    def experiment(self) -> str:
        """Name of the experiment that jobs log to, which is made when it does not exist."""
        own = self.tracker.experiment_id
        return next(e.name for e in self.catalog.experiments() if e.experiment_id == own)

    def folder(self, run_id: str) -> ArtifactFolder:
        """Return the artifacts of a run."""
        return self.catalog.artifacts(run_id)

    def activations(self, record: LayerRecord) -> ActivationReader:
        """Open a layer run's activations; rows are fetched as they are asked for.

        Raises:
            ConfigError: if the layer run keeps a sketch of them only.
        """
        if is_sketch(record):
            raise ConfigError(
                f"layer run {record.run_id} keeps a sketch and no activations; extract it with storage full for this"
            )
        fetch = self.folder(record.run_id).fetcher("activations.zarr")
        return ActivationReader.open(fetch, name=f"activations of layer run {record.run_id}")

    def sketch(self, record: LayerRecord) -> SketchRecord:
        """Return what a layer run in sketch mode keeps beside its map."""
        return SketchRecord.load(self.folder(record.run_id).path(SKETCH_FILE))

    def model_digest(self, record: LayerRecord) -> str:
        """Return the digest of the model that a layer run was captured from."""
        if is_sketch(record):
            return self.sketch(record).model_digest
        return str(self.activations(record).attrs["model_digest"])

    def samples_of(self, record: LayerRecord) -> SampleSet:
        """Return the sample set that a layer run's extraction was made from."""
        if record.parent_id is None:
            raise RunNotFoundError(f"layer run {record.run_id} has no parent that holds its sample set")
        return SampleSet.read_parquet(self.folder(record.parent_id).path("samples.parquet"))

    def projectors(self, map_run: str) -> dict[float, Projector]:
        """Return the projectors of a layer run or re-computed map by sigma.

        An aligned map has one a slice; any other map has one, under the sigma of its layer run, or the lowest
        that a joint map holds.

        Raises:
            RunNotFoundError: if there is no such run, or it holds no map.
        """
        run = self.catalog.run(map_run)
        folder = self.catalog.artifacts(run)
        names = [name for name in folder.names() if name.startswith("map/") and name.endswith(".safetensors")]
        if not names:
            raise RunNotFoundError(f"run {map_run} holds no map; name a layer run or a map made of one")
        found = {name: Projector.load(folder.path(name)) for name in names}
        return {_sigma_of(name, projector, run): projector for name, projector in found.items()}


def is_sketch(record: LayerRecord) -> bool:
    """Say whether a layer run keeps a sketch of its activations and not themselves."""
    return record.params.get("storage") == "sketch"


def samples_file(workspace: Workspace, run_id: str) -> Path:
    """Return the sample set that a run holds: a generated one, or an extraction's own."""
    return workspace.folder(run_id).path("samples.parquet")


def conditions_of(samples: SampleSet, conditioning: str) -> list[Condition] | None:
    """Return what conditions each sample: nothing ('none'), the 'uniform' label, its 'label' or its 'prompt'."""
    if conditioning == "none":
        return None
    if conditioning == "uniform":
        return [Condition(class_id=-1)] * len(samples)
    if conditioning == "prompt":
        return [Condition(prompt=prompt) for prompt in samples.prompts]
    return [Condition(class_id=int(label)) for label in samples.class_labels]


def projector_name(sigma: float | None) -> str:
    """Return the artifact name of a map's projector: of one slice of an aligned map, or of the whole map."""
    return "map/projector.safetensors" if sigma is None else f"map/projector-{format_sigma(sigma)}.safetensors"


def _sigma_of(name: str, projector: Projector, run: RunRecord) -> float:
    """Return the noise level of a projector, given its artifact's name and the run that holds it."""
    if name != projector_name(None):
        return float(name.removeprefix("map/projector-").removesuffix(".safetensors"))
    if projector.row_sigmas is not None:
        return float(projector.row_sigmas.min())
    if run.sigma is None:
        raise RunNotFoundError(f"run {run.run_id} holds a map, but does not say of which sigma; name a layer run")
    return run.sigma


def open_workspace(
    profile: str | None = None, experiment: str | None = None, *, check_artifacts: bool = True
) -> Workspace:
    """Open the tracking store of a profile; its database and folder are made where they are missing.

    Args:
        profile: name in `mlruns_config` or path of a TOML file; None takes DIFFVIEWS_PROFILE or 'local'.
        experiment: MLflow experiment; None takes the profile's.
        check_artifacts: ask a bucket for artifacts whether it answers, so that a job fails before its work and
            not after it; False for who only reads.

    Raises:
        ConfigError: if the profile is unknown or needs a variable that is not set.
        StoreError: if the profile's bucket cannot be used, with the remedy.
        TrackingError: if the tracking store cannot be used.
    """
    chosen = activate(load_profile(profile))
    if check_artifacts:
        _check_artifacts(chosen)
    tracker = Tracker(chosen, experiment)
    return Workspace(tracker, Catalog(chosen))


def artifact_trouble(workspace: Workspace) -> str | None:
    """Return why a workspace's bucket for artifacts cannot be used, None where it answers or there is none."""
    try:
        _check_artifacts(workspace.profile)
    except DiffViewsError as error:
        return str(error)
    return None


def _check_artifacts(profile: Profile) -> None:
    root = profile.artifact_root or ""
    if root.startswith("s3://"):
        ObjectStore(root).check()
