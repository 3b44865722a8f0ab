"""Jobs by flat options, as a command line gives them: each test names what it needs and no more."""

from dataclasses import fields

from diffviews.cli import parse_arguments
from diffviews.pipelines import embed as embedding
from diffviews.pipelines import extract as extraction
from diffviews.pipelines import generate_dataset as dataset
from diffviews.pipelines import models
from diffviews.pipelines.layers import nearest
from diffviews.pipelines.workspace import open_workspace
from diffviews.recipes import DatasetRecipe, EmbeddingRecipe, Execution, ExtractionRecipe, ModelRecipe
from diffviews.recipes.options import build, options_of

EXECUTION = {field.name for field in fields(Execution)}


def split(recipe, options, **execution):
    """Return the recipe, execution and workspace that flat options make."""
    workspace = open_workspace(options.pop("profile", None), options.pop("experiment", None))
    execution |= {name: options.pop(name) for name in EXECUTION & set(options)}
    return build(recipe, options), workspace, Execution(**execution)


def recipe_of(recipe, command, words=()):
    """Return the recipe that a command line makes."""
    values = parse_arguments(command, words)
    return build(recipe, {option.name: values[option.name] for option in options_of(recipe)})


def extract(model="edm-digits", checkpoint=None, dataset="digits", layers=("all",), **options):
    """Extract; see `ExtractionRecipe`."""
    options |= {"model": model, "checkpoint": checkpoint, "dataset": dataset, "layers": layers}
    return extraction.extract(*split(ExtractionRecipe, options))


def generate_dataset(model="edm-digits", checkpoint=None, num_samples=100, **options):
    """Make a sample set; see `DatasetRecipe`."""
    options |= {"model": model, "checkpoint": checkpoint, "num_samples": num_samples}
    return dataset.generate_dataset(*split(DatasetRecipe, options, resume=True))


def embed(layer_run, parameters, workspace, *, kind="single", sigmas=(), force=False):
    """Make a further map."""
    return embedding.embed(EmbeddingRecipe(layer_run, str(kind), sigmas, parameters), workspace, force=force)


def open_layer(model="edm-digits", layer="midblock", sigma=2.0, *, opener=None, **options):
    """Open one layer at one noise level."""
    execution = Execution(**{name: options.pop(name) for name in EXECUTION & set(options)})
    recipe = build(ExtractionRecipe, {"model": model, "layers": (layer,), "sigmas": (sigma,), **options})
    return nearest.open_layer(recipe, opener, execution)


def metric_series(store, run_id, key):
    """Return a step metric as (step, value), by step."""
    connection = getattr(store, "tracker", store).connection
    history = connection.call(lambda client: client.get_metric_history(run_id, key))
    return sorted((metric.step, metric.value) for metric in history)


def load_model(model="edm-digits", checkpoint=None, device="cpu", precision="auto", workspace=None):
    """Load a model by its name."""
    recipe = ModelRecipe(model, None if checkpoint is None else str(checkpoint), precision)
    return models.load_model(recipe, workspace, device)
