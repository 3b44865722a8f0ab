"""The `register` command: a model with its weights becomes a version in MLflow's registry, without any pickle."""

import logging
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffviews import __version__
from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.registry import get_adapter
from diffviews.data.checkpoint_catalog import find_checkpoint
from diffviews.data.weight_files import PICKLED
from diffviews.errors import CheckpointError, ConfigError
from diffviews.pipelines.convert_checkpoint import convert_checkpoint
from diffviews.pipelines.models import load_model, resolve_checkpoint
from diffviews.pipelines.workspace import open_workspace
from diffviews.recipes.base import ModelRecipe
from diffviews.tracking.connection import Connection
from diffviews.tracking.models import SCHEME
from diffviews.tracking.profiles import Profile

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

_WEIGHTS_FILE = "model.safetensors"
_NAME = re.compile(r"[A-Za-z0-9][\w .-]{0,199}")


def register(
    name: str,
    model: str = "edm-digits",
    checkpoint: str | None = None,
    *,
    device: str = "auto",
    profile: str | None = None,
    experiment: str | None = None,
) -> str:
    """Put a model with its weights into MLflow's registry, for `mlflow models serve` and as a checkpoint.

    Args:
        name: of the model in the registry.
        model: adapter name.
        checkpoint: weights: a file, a folder, an address or a catalogue name; null takes the adapter's own.
        device: on which the weights are tried: auto, cpu, cuda, cuda:N or mps.
        profile: tracking profile of mlruns_config.
        experiment: MLflow experiment that the model is logged in.

    Returns:
        The address of the version, `models:/name/1`.

    Raises:
        CheckpointError: if the weights cannot be fetched or do not fit.
        ConfigError: if the name is impossible. TrackingError: if the registry cannot be used.
    """
    check_name(name)
    workspace = open_workspace(profile, experiment)
    tracker = workspace.tracker
    with tempfile.TemporaryDirectory(prefix="diffviews-register-") as scratch:
        weights = gather_weights(model, checkpoint, Path(scratch) / "weights", workspace.profile)
        adapter = load_model(ModelRecipe(model, str(weights)), workspace, device=device)
        return _log(tracker.connection, tracker.experiment_id, name, adapter, weights)


def check_name(name: str) -> None:
    """Refuse a name that could not be part of an address or a file's name.

    Raises:
        ConfigError: saying what is allowed.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name[:80]!r} cannot name a registered model; take letters, digits, '.', '_' and '-', so that it is "
            f"found as {SCHEME}name/1"
        )


def gather_weights(model: str, checkpoint: str | None, folder: Path, profile: Profile | None = None) -> Path:
    """Write the weights of a model into `folder`, none of them pickled, and return it.

    Raises:
        CheckpointError: if they cannot be had, or are only a part of a model.
    """
    entry = None if checkpoint is None or Path(checkpoint).exists() else find_checkpoint(checkpoint)
    if entry is not None and entry.base is not None:
        raise CheckpointError(
            f"checkpoint {entry.name!r} is only a part of a model and needs {entry.base!r}; register a folder whose "
            "config.json names both"
        )
    found = resolve_checkpoint(checkpoint, profile) if checkpoint is not None else _shipped(model)
    if found is None or not found.exists():
        raise CheckpointError(f"checkpoint {found} does not exist; check the path")
    if found.is_dir():
        return _copied(found, folder)
    folder.mkdir(parents=True)
    if found.suffix.lower() in PICKLED:
        convert_checkpoint(str(found), str(folder / _WEIGHTS_FILE))
    else:
        shutil.copyfile(found, folder / _WEIGHTS_FILE)
    return folder


def _shipped(model: str) -> Path:
    find = getattr(get_adapter(model), "shipped_weights", None)
    if find is None:
        raise CheckpointError(f"model {model!r} brings no weights; give a checkpoint")
    return Path(find())


def _copied(source: Path, folder: Path) -> Path:
    """Copy a model's folder without its pickled files, of which each needs a twin in safetensors."""
    for file in source.rglob("*"):
        if file.suffix.lower() in PICKLED and not any(file.parent.glob("*.safetensors")):
            raise CheckpointError(
                f"{file} is a pickle, which the registry is not given; convert it first: diffviews convert-checkpoint"
            )
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*(f"*{suffix}" for suffix in PICKLED)))
    return folder


def _log(
    connection: Connection, experiment_id: str, name: str, adapter: GeneratorAdapter, weights: Path
) -> str:
    tags = {"diffviews.model": adapter.model_type, "diffviews.model_digest": adapter.digest()}
    logged = connection.call(lambda client: client.create_logged_model(experiment_id, name=name, tags=tags))
    try:
        folder = weights.parent / "logged"
        _save(folder, logged, adapter, weights)
        connection.call(lambda client: client.log_model_artifacts(logged.model_id, str(folder)), transfer=True)
    except BaseException:
        connection.call(lambda client: client.finalize_logged_model(logged.model_id, "FAILED"))
        raise
    connection.call(lambda client: client.finalize_logged_model(logged.model_id, "READY"))
    return connection.call(lambda client: _add_version(client, name, logged, tags))


def _save(folder: Path, logged: "LoggedModel", adapter: GeneratorAdapter, weights: Path) -> None:
    """Write the model as MLflow lays it out: code, weights, signature, example, requirements."""
    import mlflow
    import mlflow.pyfunc
    import torch
    from mlflow.models import Model

    from diffviews.serving.pyfunc import ADAPTER, WEIGHTS, example_of, signature_of

    mlflow.pyfunc.save_model(
        path=str(folder),
        python_model=str(Path(__file__).with_name("pyfunc_entry.py")),
        artifacts={WEIGHTS: weights.as_uri()},
        model_config={ADAPTER: adapter.model_type},
        signature=signature_of(adapter),
        input_example=example_of(adapter),
        pip_requirements=[f"diffviews=={__version__}", f"mlflow=={mlflow.__version__}", f"torch=={torch.__version__}"],
        mlflow_model=Model(model_uuid=logged.model_id, model_id=logged.model_id),
    )


def _add_version(client: "MlflowClient", name: str, logged: "LoggedModel", tags: dict[str, Any]) -> str:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(
        name, source=f"models:/{logged.model_id}", tags=tags, model_id=logged.model_id
    )
    return f"{SCHEME}{name}/{made.version}"
