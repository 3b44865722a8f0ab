"""The worker on Modal: a T4 that starts with a request and is gone two minutes after the last.

    modal secret create diffviews-worker DIFFVIEWS_WORKER_TOKEN=… MLFLOW_TRACKING_URI=https://…
    modal deploy -m diffviews.serving.modal_app        # from a clone of the repository

Modal reads this file as its definition of the deployment; nothing else imports it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import modal  # type: ignore[import-not-found, unused-ignore]

from diffviews.tracking.profiles import profile_folder

if TYPE_CHECKING:
    from fastapi import FastAPI

NAME = "diffviews-worker"
"""Of the app, and of the Modal secret with the environment it runs in."""
GPU = "T4"
IDLE_SECONDS = 120
_REQUEST_SECONDS = 600
_CACHE = "/cache"

image = (
    modal.Image.debian_slim(python_version="3.11")
    .pip_install_from_pyproject(
        str(Path(__file__).resolve().parents[2] / "pyproject.toml"), optional_dependencies=["diffusion"]
    )
    .env({"DIFFVIEWS_CACHE_DIR": _CACHE, "MLFLOW_DISABLE_TELEMETRY": "true"})
    .add_local_python_source("diffviews", ignore=["**/__pycache__"])  # weights and tables too
    .add_local_dir(profile_folder(), "/root/mlruns_config")  # beside the package, as in a clone
)
app = modal.App(NAME, image=image, include_source=False)


@app.function(
    gpu=GPU,
    scaledown_window=IDLE_SECONDS,
    max_containers=1,  # one queue, and a job is where it was ordered
    timeout=_REQUEST_SECONDS,
    secrets=[modal.Secret.from_name(NAME)],
    volumes={_CACHE: modal.Volume.from_name("diffviews-cache", create_if_missing=True)},
)
@modal.concurrent(max_inputs=100)
@modal.asgi_app()
def worker() -> "FastAPI":
    """Return the worker's ASGI application; the secret must hold its token."""
    from diffviews.serving.app import create_app
    from diffviews.serving.worker import make_service, read_token

    return create_app(make_service(), token=read_token("0.0.0.0"))
