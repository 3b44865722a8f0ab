"""A small extraction of the shipped digits model, made once and read by many tests."""

import pytest

from diffviews.pipelines.extract import extract
from diffviews.pipelines.workspace import open_workspace


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """An own tracking store in an own folder, for the whole module."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "DIFFVIEWS_PROFILE"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="module")
def extraction(store):
    """Two layers of edm-digits at two sigmas over 120 digits, control rates included."""
    return extract(
        layers=("encoder_bottleneck", "decoder_block_4"), sigmas=(2.0, 0.5), max_samples=120, control_seeds=1
    )


@pytest.fixture(scope="module")
def workspace(extraction):
    return open_workspace()
