"""What `viz` is told reaches the dashboard's process, and what is impossible is refused before anything starts."""

import subprocess
import sys

import pytest

from diffviews.errors import AdapterNotFoundError, ConfigError, SampleSetError
from diffviews.pipelines import viz as viz_module
from diffviews.pipelines.model_runner import DefaultCheckpoint
from diffviews.recipes.generation import GenerationRecipe
from panel_app.computing.job_bar import SessionJobs
from panel_app.dashboard import Dashboard
from panel_app.data import DataStore
from panel_app.generation.form_model import form_model
from panel_app.generation.sampling_section import FirstValues, SamplingSection
from panel_app.model_facts import ModelFacts
from panel_app.settings import Settings
from tests.unit.dashboard_synthetic import SyntheticRunner, SyntheticRuns


@pytest.fixture
def started(tmp_path, monkeypatch):
    """{name of a program: its environment} of what `viz` would start."""
    programs = {}

    class Programs(viz_module.Programs):
        def start(self, name, command, environment, port):
            programs[name] = dict(environment)

        def wait(self):
            pass

    monkeypatch.setattr(viz_module, "Programs", Programs)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return programs


def test_options_of_viz_are_read_by_the_dashboard(started):
    options = {"checkpoint_path": "hf:someone/weights", "adapter": "edm-imagenet-64", "num_steps": 7}
    viz_module.viz(**options, guidance_scale=1.5)
    settings = Settings.read([], started["the dashboard"])
    assert (settings.checkpoint, settings.adapter) == ("hf:someone/weights", "edm-imagenet-64")
    assert settings.first_values == FirstValues(7, 1.5)


def test_dashboard_takes_the_models_own_values_where_none_are_given(started):
    viz_module.viz()
    settings = Settings.read([], started["the dashboard"])
    assert (settings.adapter, settings.run, settings.first_values) == (None, None, FirstValues())


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"adapter": "edm-digit", "checkpoint_path": "x.pkl"}, AdapterNotFoundError, "did you mean 'edm-digits'"),
        ({"adapter": "edm-digits"}, ConfigError, "give --checkpoint-path or --data-dir"),
        ({"num_steps": 0}, ConfigError, "num_steps 0 must be at least 1"),
        ({"guidance_scale": -1.0}, ConfigError, "guidance_scale -1.0 must be"),
        ({"embeddings": "nowhere.csv"}, SampleSetError, "nowhere.csv is no table of coordinates"),
    ],
)
def test_impossible_option_is_refused_before_anything_starts(started, options, error, said):
    with pytest.raises(error, match=said):
        viz_module.viz(**options)
    assert not started


def test_table_outside_a_models_folder_needs_the_data_folder(started, tmp_path):
    table = tmp_path / "places.csv"
    table.write_text("sample_id,umap_x,umap_y\n")
    with pytest.raises(ConfigError, match="say by --data-dir what it is of"):
        viz_module.viz(embeddings=str(table))


@pytest.mark.parametrize("text", ["many", "0"])
def test_settings_refuse_steps_that_are_none(text):
    with pytest.raises(ConfigError, match="num_steps"):
        Settings.read([], {"DIFFVIEWS_NUM_STEPS": text})


def test_checkpoint_is_given_to_recipes_of_its_model_that_name_none():
    given = DefaultCheckpoint("edm.pkl", "edm-imagenet-64")
    assert given.fill_in(GenerationRecipe(model="edm-imagenet-64")).checkpoint == "edm.pkl"
    assert given.fill_in(GenerationRecipe(model="edm-imagenet-64", checkpoint="own.pkl")).checkpoint == "own.pkl"
    assert given.fill_in(GenerationRecipe(model="edm-digits")).checkpoint is None
    assert DefaultCheckpoint("edm.pkl").fill_in(GenerationRecipe(model="edm-digits")).checkpoint == "edm.pkl"


def test_form_shows_first_values_and_may_exceed_its_ranges():
    section = SamplingSection(form_model()(), FirstValues(600, 7.5))
    section.follow(ModelFacts(default_steps=18, default_guidance=1.0))
    assert (section.steps.value, section.guidance.value, section.guidance.end) == (600, 7.5, 8.0)
    assert "The model's own is 1." in section.guidance.description


def test_guidance_of_zero_is_a_first_value():
    section = SamplingSection(form_model()(), FirstValues(guidance_scale=0.0))
    section.follow(ModelFacts(default_steps=4, default_guidance=3.0))
    assert (section.steps.value, section.guidance.value) == (4, 0.0)


def test_first_generation_takes_the_first_values():
    runs = SyntheticRuns(60)
    view = Dashboard(DataStore(runs), SyntheticRunner(runs), SessionJobs(), first=FirstValues(5, 2.0))
    view.open({})
    recipe = view.generation.form.recipe()
    assert (recipe.sampling.num_steps, recipe.sampling.guidance_scale) == (5, 2.0)
    view.close()


_LOADS = """
import runpy, sys
runpy.run_path(sys.argv[1])
before = set(sys.modules)
runpy.run_path(sys.argv[2])
print([name for name in sys.modules if name not in before and name.split(".")[0] != "panel"])
"""


def test_all_that_a_first_visit_imports_is_loaded_before_the_dashboard_listens():
    command = viz_module.dashboard_command(5006)
    setup, app = command[command.index("--setup") + 1], command[command.index("serve") + 1]
    loaded = subprocess.run([sys.executable, "-c", _LOADS, setup, app], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
