"""A small extraction of the shipped digits model, made once and read by many tests."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from diffviews.adapters.registry import load_adapter
from diffviews.pipelines.workspace import open_workspace
from tests.jobs import extract
from tests.programs import NO_POSTGRES, postgres
from tests.team_servers import Database, Server

ROOT = Path(__file__).parents[2]
FOREIGN = (
    "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "DIFFVIEWS_PROFILE",
)  # fmt: skip


@contextmanager
def inside(folder):
    """Work in a folder with a tracking store of its own, on one thread, as the commands started by tests do."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        for name in FOREIGN:
            patch.delenv(name, raising=False)
        torch.set_num_threads(1)
        yield folder
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def extraction(shared_folder):
    """Two layers of edm-digits at two sigmas over 120 digits, control rates included."""
    with inside(shared_folder):
        return extract(
            layers=("encoder_bottleneck", "decoder_block_4"),
            sigmas=(2.0, 0.5),
            max_samples=120,
            control_seeds=1,
            control_null_seeds=1,
            control_windows=False,
            control_matched=False,
        )


@pytest.fixture(scope="module")
def store(shared_folder):
    """The folder of the tracking store, as the current one."""
    with inside(shared_folder):
        yield shared_folder


@pytest.fixture(scope="module")
def workspace(store, extraction):
    return open_workspace()


@pytest.fixture(scope="module")
def layer_run(workspace, extraction):
    """The layer run of decoder_block_4 at sigma 2."""
    layers = workspace.catalog.layers(extraction.run_id)
    return next(record for record in layers if (record.layer, record.sigma) == ("decoder_block_4", 2.0))


@pytest.fixture(scope="session")
def adapter():
    return load_adapter("edm-digits", device="cpu")


@pytest.fixture
def experiment(store, request):
    """Name of an experiment in the shared store that belongs to one test."""
    return request.node.name


@pytest.fixture
def own_store(tmp_path):
    """A folder with an empty tracking store, as the current one."""
    with inside(tmp_path):
        yield tmp_path


@pytest.fixture(scope="session")
def database():
    """PostgreSQL for a team's server; a test that stops it starts it again."""
    if postgres() is None:
        pytest.skip(NO_POSTGRES)
    database = Database()
    database.start()
    yield database
    database.stop()
    shutil.rmtree(database.folder)


@pytest.fixture(scope="session")
def server(database, tmp_path_factory):
    """`mlflow server` over PostgreSQL; a test that stops it starts it again."""
    server = Server(tmp_path_factory.mktemp("server"), database)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def command_environment():
    """Environment for commands that run in a process of their own."""
    foreign = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
    return foreign | own
