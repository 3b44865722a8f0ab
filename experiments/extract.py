"""Entry point `extract` of `mlflow run`: the command `diffviews extract`."""

from diffviews.cli import run_command

if __name__ == "__main__":
    run_command("extract")
