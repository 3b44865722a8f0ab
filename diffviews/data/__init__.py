"""Sample sets, activations and the files they live in; knows no model and no MLflow."""
