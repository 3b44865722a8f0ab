"""Entry point `embed` of `mlflow run`: the command `diffviews embed`."""

from diffviews.cli import run_command

if __name__ == "__main__":
    run_command("embed")
