"""MLproject, run configs and commands say the same as the typed functions behind them."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from diffviews.cli import COMMANDS, load_function, options_for, parse_arguments
from experiments.project import project

ROOT = Path(__file__).parents[2]
ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
CONFIGS = sorted((ROOT / "experiments" / "configs").glob("*.yaml"))
COMMAND_OF_CONFIG = {"digits": "demo", "extract": "extract", "control": "extract", "train": "train"}


def command_of(entry):
    return "demo" if entry == "main" else entry


def test_mlproject_is_what_the_commands_say():
    assert (ROOT / "MLproject").read_text() == project(), "run: python -m experiments.project"


@pytest.mark.parametrize("entry", [name for name in ENTRY_POINTS if name != "main"])
def test_entry_point_defaults_are_those_of_the_command(entry):
    parameters = ENTRY_POINTS[entry]["parameters"]
    given = {key: str(value["default"]) for key, value in parameters.items() if "default" in value}
    required = {key: "0" * 32 for key in parameters if key not in given}
    words = [f"--{key}={value}" for key, value in (given | required).items()]
    by_project = parse_arguments(command_of(entry), words)
    assert by_project == parse_arguments(command_of(entry), [f"--{key}={value}" for key, value in required.items()])
    assert re.findall(r"--(\w+) \{(\w+)\}", ENTRY_POINTS[entry]["command"]) == [(key, key) for key in parameters]


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_entry_point_runs_the_script_of_its_command(entry):
    script = ROOT / ENTRY_POINTS[entry]["command"].split()[1]
    assert f'run_command("{command_of(entry)}")' in script.read_text()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_config_fits_its_function(config):
    command = COMMAND_OF_CONFIG[config.stem.split("-")[0]]
    values = parse_arguments(command, ["--config", str(config)])
    for key, value in yaml.safe_load(config.read_text()).items():
        own = values[key]
        assert (list(own) if isinstance(own, tuple) else own) == value, key


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_documented(name):
    options = options_for(load_function(name))
    assert options
    assert [option.name for option in options.values() if not option.text] == []


@pytest.mark.parametrize("package", ["diffviews", "panel_app"])
def test_every_data_file_is_packaged(package):
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][package]
    files = [path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for path in files:
        name = path.relative_to(ROOT / package)
        assert path.suffix == ".py" or any(name.match(pattern) for pattern in patterns), name
