"""Entry point `atlas` of `mlflow run`: the command `diffviews atlas`."""

from diffviews.cli import run_command

if __name__ == "__main__":
    run_command("atlas")
