"""What all visitors of a process share: the tracking store, what was opened of it, and the models."""

import functools
import os
import threading

import numpy as np
import pandas as pd

from diffviews.pipelines.model_runner import DefaultCheckpoint, ModelRunner, Runner
from diffviews.pipelines.workspace import open_workspace
from diffviews.serving.client import WorkerClient
from diffviews.serving.remote_runner import RemoteRunner
from panel_app import raster
from panel_app.data import DataStore
from panel_app.library import LoggedRuns
from panel_app.settings import Settings


@functools.cache
def shared(settings: Settings) -> tuple[DataStore, Runner]:
    """Return this process's data and models, opened by its first visitor.

    Raises:
        DiffViewsError: if the tracking store cannot be used; the next visitor tries again.
    """
    threading.Thread(target=compile_drawing, name="diffviews-compile", daemon=True).start()
    if settings.tracking_uri:
        os.environ["MLFLOW_TRACKING_URI"] = settings.tracking_uri
    workspace = open_workspace(settings.profile, settings.experiment, check_artifacts=False)
    store = DataStore(LoggedRuns(workspace, settings.mlflow_ui))
    checkpoint = DefaultCheckpoint(settings.checkpoint, settings.adapter)
    if settings.worker:
        client = WorkerClient(settings.worker)
        return store, RemoteRunner(client, workspace, settings.experiment, checkpoint)
    return store, ModelRunner(workspace, settings.device, checkpoint)


def compile_drawing() -> None:
    """Draw two points in every way, so that Datashader's compilation does not wait for the first map."""
    points = pd.DataFrame({"x": [0.2, 0.8], "y": [0.2, 0.8], "class": pd.Categorical(["a", "b"]), "v": [0.0, 1.0]})
    points = points.astype({"x": np.float32, "y": np.float32})
    window = raster.Window((0.0, 1.0), (0.0, 1.0), 64, 64)
    for colouring in (
        raster.Colouring("class", ("#000000", "#ffffff"), ("a", "b")),
        raster.Colouring("v", ("#000000", "#ffffff")),
    ):
        drawn = raster.Points.of(points, colouring)
        raster.draw_points(drawn, window, colouring)
        raster.draw_points(drawn, window, colouring, few_points=0)
