"""Entry point `train` of `mlflow run`: the command `diffviews train`."""

from diffviews.cli import run_command

if __name__ == "__main__":
    run_command("train")
