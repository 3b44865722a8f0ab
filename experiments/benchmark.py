"""Entry point `benchmark` of `mlflow run`: the command `diffviews benchmark`, with the code of this clone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from diffviews.cli import run_command  # the package beside this folder, which knows the benchmarks

if __name__ == "__main__":
    run_command("benchmark")
