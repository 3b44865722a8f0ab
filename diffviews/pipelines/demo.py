"""The `demo` command: the whole story on 1,797 handwritten digits, then dashboard and MLflow UI."""

import logging
import time

from diffviews.pipelines.control.measures import is_marked
from diffviews.pipelines.extract import extract
from diffviews.pipelines.generate import generate
from diffviews.pipelines.viz import viz
from diffviews.pipelines.workspace import open_workspace
from diffviews.recipes import Execution, ExtractionRecipe, GenerationRecipe

logger = logging.getLogger(__name__)

KNOWS_SAMPLES = 500
"""Digits of which it is measured how well layers tell them: enough for gains of 0.05, and little time."""


def demo(
    serve: bool = True,
    max_samples: int | None = None,
    sigmas: tuple[float, ...] = (2.0, 5.0),
    control_seeds: int = 3,
    *,
    port: int = 5006,
    mlflow_port: int = 5000,
    device: str = "auto",
    profile: str | None = None,
    experiment: str | None = None,
) -> str | None:
    """Map and measure every layer of edm-digits, make one masked generation, then serve both pages.

    Args:
        serve: serve the dashboard and the MLflow UI when the pipeline is done.
        max_samples: use fewer of the 1,797 digits.
        sigmas: noise levels; at these the noised input itself does not tell every digit.
        control_seeds: generations per class for the control rate, which one layer of each cut is measured for.
        port: of the dashboard.
        mlflow_port: of the MLflow UI.
        device: auto, cpu, cuda, cuda:N or mps.
        profile: tracking profile of mlruns_config.
        experiment: MLflow experiment name.
    """
    began = time.monotonic()
    workspace = open_workspace(profile, experiment)
    recipe = ExtractionRecipe(
        sigmas=sigmas,
        max_samples=max_samples,
        knows=True,
        knows_samples=KNOWS_SAMPLES,
        control_seeds=control_seeds,
        control_null_seeds=1,
        control_windows=False,
        control_matched=False,
        control_layers=("cuts",),
    )
    extraction = extract(recipe, workspace, Execution(device=device, resume=True))
    knows_and_decides = ("gain_knn", "control_rate")
    layer = max(
        workspace.catalog.layers(extraction.run_id),
        key=lambda record: 0 if is_marked(record.metrics) else sum(map(record.metrics.get, knows_and_decides, (0, 0))),
    )
    if not workspace.catalog.generations(layer.run_id):
        threes = workspace.samples_of(layer).of_classes([3]).sample_ids[:10]
        generate(
            GenerationRecipe(layer_run=layer.run_id, sample_ids=threes, num_samples=4), workspace, device=device
        )
    logger.info("the pipeline took %.0f s; extraction run %s", time.monotonic() - began, extraction.run_id)
    if serve:
        viz(port, mlflow_port, device=device, profile=profile, experiment=experiment)
    return None
