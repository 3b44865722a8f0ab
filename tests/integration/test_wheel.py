"""The wheel: it installs nothing outside its own names, and finds its profiles wherever it lies."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.integration.conftest import FOREIGN, ROOT

SOURCES = ("diffviews", "panel_app", "experiments", "mlruns_config")
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this very tree, built in a copy, as building leaves folders behind."""
    copy, made = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    subprocess.run([sys.executable, "-c", BUILD, str(made)], cwd=copy, check=True, capture_output=True)
    (found,) = made.iterdir()
    return found


@pytest.fixture(scope="module")
def run_installed(wheel, tmp_path_factory):
    """Runs Python with the installed wheel in an empty folder; returns the finished process and the folder."""
    place = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(place)]
    subprocess.run([*pip, str(wheel)], check=True)
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}

    def run(*words):
        folder = tmp_path_factory.mktemp("empty")
        environment = kept | {"PYTHONPATH": str(place), "MLFLOW_DISABLE_TELEMETRY": "true"}
        command = [sys.executable, "-P", *words]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        return done, folder

    return run


def test_wheel_installs_its_own_names_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"diffviews", "panel_app"}
    profiles = {path.name for path in (ROOT / "mlruns_config").glob("*.toml")}
    assert {name.split("/")[-1] for name in names if name.startswith("diffviews/mlruns_config/")} == profiles


def test_installed_wheel_opens_the_local_profile_in_an_empty_folder(run_installed):
    script = "import diffviews.pipelines.workspace as w; w.open_workspace('local'); print(w.__file__)"
    done, folder = run_installed("-c", script)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.startswith(str(ROOT))
    assert (folder / "mlflow.db").exists()


def test_installed_wheel_says_in_a_sentence_that_benchmarks_run_from_a_clone(run_installed):
    done, _ = run_installed("-m", "diffviews", "benchmark", "help")
    assert done.returncode == 1
    assert done.stderr == (
        "diffviews benchmark: benchmark runs from a clone of the repository; the installed package does not hold it\n"
    )
