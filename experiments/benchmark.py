"""Entry point `benchmark` of `mlflow run`: the command `diffviews benchmark`."""

from diffviews.cli import run_command

if __name__ == "__main__":
    run_command("benchmark")
