"""Rules that every source file keeps: those of pyproject.toml's ruff, and no circle between files."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("diffviews", "panel_app", "experiments")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def test_sources_keep_the_rules_of_ruff():
    """Nothing is unpickled, evaluated, printed, global or seeded for all; `make lint` looks at the tests too."""
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", *FOLDERS], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_circle_between_files():
    """No file needs itself, through whatever others: imports inside functions and for types count too."""
    files = {module_name(path): path for path in SOURCES}
    needed = {name: needed_files(name, path, files) for name, path in files.items()}
    try:
        tuple(TopologicalSorter(needed).static_order())
    except CycleError as error:
        pytest.fail(f"files import each other: {' -> '.join(error.args[1])}; pass the data and not the object")


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def needed_files(name, path, files):
    """Return the modules among `files` that one of them imports anywhere, without the packages around them."""
    found = set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            found.update(full if (full := f"{base}.{alias.name}") in files else base for alias in node.names)
    return found & files.keys() - {name}
