"""The code that is logged with a registered model; MLflow runs it when the model is loaded."""

from mlflow.models import set_model

from diffviews.serving.pyfunc import Generator

set_model(Generator())
