"""A generator as an MLflow model: a table of classes or prompts in, a table of pictures out.

model = mlflow.pyfunc.load_model("models:/digits/1")
model.predict(pd.DataFrame({"class_label": [3, 7]}), params={"seed": 1})   # column `image`: PNGs in base64
"""

import base64
from typing import Any

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.pyfunc.model import PythonModel
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from diffviews.adapters.base import GeneratorAdapter
from diffviews.core.generator import GenerationRequest, generate
from diffviews.data.pictures import encode_png
from diffviews.errors import ConfigError
from diffviews.pipelines.models import load_model
from diffviews.recipes.base import ModelRecipe
from diffviews.serving.requests import Limits, check_values

WEIGHTS = "weights"
"""Artifact of a model: the folder with its weights."""
ADAPTER = "model"
"""Entry of a model's configuration: name of its adapter."""


class Generator(PythonModel):
    """What MLflow calls; the weights are loaded when the model is."""

    def load_context(self, context: Any) -> None:
        """Load the weights onto the best device."""
        self._adapter = load_model(ModelRecipe(context.model_config[ADAPTER], context.artifacts[WEIGHTS]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Generate an image a row, row i from the noise of (seed, i).

        Args:
            context: MLflow's; not used.
            model_input: `class_label` (-1: the uniform label) or `prompt` and `negative_prompt`, by the model.
            params: seed, num_steps, guidance_scale.

        Returns:
            `image`, a PNG in base64, `class_label` and `seed` of each row.

        Raises:
            ConfigError: if too much is asked for, or what the model cannot do.
        """
        request = request_of(self._adapter, model_input, params or {})
        result = generate(self._adapter, request)
        pictures = [base64.b64encode(encode_png(image)).decode() for image in result.images]
        return pd.DataFrame({"image": pictures, "class_label": result.labels, "seed": result.seed})


def request_of(adapter: GeneratorAdapter, table: pd.DataFrame, params: dict[str, Any]) -> GenerationRequest:
    """Return the generation that a table and parameters ask for.

    Raises:
        ConfigError: if it has no row, too many, or asks for too many steps.
    """
    if not len(table):
        raise ConfigError("the table has no row; give one for each image")
    chosen = {name: params.get(name) for name in ("seed", "num_steps", "guidance_scale")}
    check_values({"num_samples": len(table), **chosen})
    steps = chosen["num_steps"] or adapter.default_steps
    Limits().check_result(len(table), int(steps), adapter.resolution)
    given: dict[str, Any] = {}
    if adapter.takes_prompts:
        given["prompts"] = tuple(table["prompt"].astype(str))
        if "negative_prompt" in table:
            given["negative_prompt"] = tuple(table["negative_prompt"].fillna("").astype(str))
    elif "class_label" in table:
        given["class_labels"] = tuple(int(label) for label in table["class_label"])
    return GenerationRequest(
        num_samples=len(table),
        seed=int(chosen["seed"] or 0),
        num_steps=int(steps),
        guidance_scale=None if chosen["guidance_scale"] is None else float(chosen["guidance_scale"]),
        **given,
    )


def signature_of(adapter: GeneratorAdapter) -> ModelSignature:
    """Return what a model's table and parameters are, with the adapter's own defaults."""
    prompts = [ColSpec(DataType.string, "prompt"), ColSpec(DataType.string, "negative_prompt", required=False)]
    classes = [ColSpec(DataType.long, "class_label", required=bool(adapter.num_classes))]
    made = [ColSpec(DataType.string, "image"), ColSpec(DataType.long, "class_label"), ColSpec(DataType.long, "seed")]
    params = [
        ParamSpec("seed", DataType.long, 0),
        ParamSpec("num_steps", DataType.long, adapter.default_steps),
        ParamSpec("guidance_scale", DataType.double, float(adapter.defaults.default_guidance)),
    ]
    inputs = Schema([*(prompts if adapter.takes_prompts else classes)])
    return ModelSignature(inputs, Schema([*made]), ParamSchema(params))


def example_of(adapter: GeneratorAdapter) -> pd.DataFrame:
    """Return a table that a model takes."""
    if adapter.takes_prompts:
        return pd.DataFrame({"prompt": ["a photograph of a lighthouse"]})
    return pd.DataFrame({"class_label": [0]})
