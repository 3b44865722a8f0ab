"""Entry point `main` of `mlflow run`: the whole pipeline on a config file, by default the digits demo."""

from diffviews.cli import run_command

if __name__ == "__main__":
    run_command("demo")
