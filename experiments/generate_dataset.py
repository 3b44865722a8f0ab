"""Entry point `generate-dataset` of `mlflow run`: the command `diffviews generate-dataset`."""

from diffviews.cli import run_command

if __name__ == "__main__":
    run_command("generate-dataset")
