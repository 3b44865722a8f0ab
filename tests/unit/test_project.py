"""MLproject, run configs and commands say the same as the typed functions behind them."""

import inspect
import re
import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import yaml

from diffviews.cli import COMMANDS, flags_of, load_function, parse_arguments

ROOT = Path(__file__).parents[2]
ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
CONFIGS = sorted((ROOT / "experiments" / "configs").glob("*.yaml"))
COMMAND_OF_CONFIG = {"digits": "demo", "extract": "extract", "control": "extract", "train": "train"}


def spread(values):
    """Return {flag: value} with dataclass arguments spread into their fields."""
    flat = {}
    for key, value in values.items():
        if is_dataclass(value):
            flat |= {field.name: getattr(value, field.name) for field in fields(value)}
        else:
            flat[key] = value
    return {key: list(value) if isinstance(value, tuple) else value for key, value in flat.items()}


def command_of(entry):
    return "demo" if entry == "main" else entry


@pytest.mark.parametrize("entry", [name for name in ENTRY_POINTS if name != "main"])
def test_entry_point_defaults_are_those_of_the_function(entry):
    parameters = ENTRY_POINTS[entry]["parameters"]
    given = {key: str(value["default"]) for key, value in parameters.items() if "default" in value}
    required = {key: "0" * 32 for key in parameters if key not in given}
    words = [f"--{key}={value}" for key, value in (given | required).items()]
    by_project = spread(parse_arguments(command_of(entry), words))
    by_function = spread(parse_arguments(command_of(entry), [f"--{k}={v}" for k, v in required.items()]))
    assert by_project == by_function


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_entry_point_passes_each_parameter_under_its_name(entry):
    definition = ENTRY_POINTS[entry]
    passed = re.findall(r"--(\w+) \{(\w+)\}", definition["command"])
    assert [flag for flag, _ in passed] == [name for _, name in passed] == list(definition["parameters"])
    assert all(value["type"] in ("string", "float", "path", "uri") for value in definition["parameters"].values())


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_entry_point_runs_the_script_of_its_command(entry):
    script = ROOT / ENTRY_POINTS[entry]["command"].split()[1]
    assert f'run_command("{command_of(entry)}")' in script.read_text()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_config_fits_its_function(config):
    command = COMMAND_OF_CONFIG[config.stem.split("-")[0]]
    values = spread(parse_arguments(command, ["--config", str(config)]))
    for key, value in yaml.safe_load(config.read_text()).items():
        assert values[key] == value, key


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_is_documented(name):
    function = load_function(name)
    document = inspect.getdoc(function) or ""
    for key in inspect.signature(function).parameters:
        assert re.search(rf"^\s+{key}: ", document, re.MULTILINE), key
    assert flags_of(function)


@pytest.mark.parametrize("package", ["diffviews", "panel_app"])
def test_every_data_file_is_packaged(package):
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][package]
    files = [path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for path in files:
        name = path.relative_to(ROOT / package)
        assert path.suffix == ".py" or any(name.match(pattern) for pattern in patterns), name
