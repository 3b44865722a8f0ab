"""Entry point `generate` of `mlflow run`: the command `diffviews generate`."""

from diffviews.cli import run_command

if __name__ == "__main__":
    run_command("generate")
