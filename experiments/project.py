"""`python -m experiments.project` writes `MLproject`: each entry point has the options of its command."""

import json
from pathlib import Path
from typing import Any, get_args, get_origin

from diffviews.cli import load_function, options_for
from diffviews.recipes.options import REQUIRED, Option

FILE = Path(__file__).parents[1] / "MLproject"
ENTRY_POINTS = ("extract", "embed", "generate", "generate-dataset", "atlas", "train", "benchmark")
FROM_ENVIRONMENT = frozenset({"profile", "experiment", "pca_components"})
"""Said by variables, which a default written here would overrule; `-P name=value` still gives them."""

_HEAD = """\
# Written by `python -m experiments.project` from the commands' own options; a test compares them.
name: diffviews

python_env: python_env.yaml

entry_points:
  main:
    parameters:
      config: {type: path, default: experiments/configs/digits.yaml}
    command: "python experiments/main.py --config {config}"
"""


def project() -> str:
    """Return the text of `MLproject`."""
    return _HEAD + "".join(map(_entry_point, ENTRY_POINTS))


def _entry_point(command: str) -> str:
    options = [o for o in options_for(load_function(command)).values() if o.name not in FROM_ENVIRONMENT]
    parameters = "".join(f"      {option.name}: {_parameter(option)}\n" for option in options)
    words = ["python", f"experiments/{command.replace('-', '_')}.py", *(f"--{o.name} {{{o.name}}}" for o in options)]
    return f'\n  {command}:\n    parameters:\n{parameters}    command: "{" ".join(words)}"\n'


def _parameter(option: Option) -> str:
    kind = "float" if option.kind in (int, float) else "string"
    if option.default is REQUIRED:
        return f"{{type: {kind}}}"
    return f"{{type: {kind}, default: {json.dumps(_text(option)) if kind == 'string' else option.default}}}"


def _text(option: Option) -> str:
    """Return a default as the command line reads it."""
    default: Any = option.default
    listed = any(get_origin(kind) is tuple for kind in (option.kind, *get_args(option.kind)))
    if listed and default is not None:
        return ",".join(map(str, default))
    return default if isinstance(default, str) else json.dumps(default)


if __name__ == "__main__":
    FILE.write_text(project(), encoding="utf-8")
