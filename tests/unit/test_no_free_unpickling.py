"""Nothing in the sources can run what a file contains; there is no exception, not even one reader of pickles."""

import ast
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("diffviews", "panel_app", "experiments")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
RULES = ("TID251", "S102", "S301", "S307", "S506", "S602", "S604", "S605")

EXECUTING = {"eval", "exec", "compile", "__import__"}
"""Built-in functions that are not even named; ruff sees only their calls."""
NEEDED = {
    "torch.load": ("weights_only", {"True"}),
    "numpy.load": ("allow_pickle", {"False", None}),
    "numpy.lib.format.read_array": ("allow_pickle", {"False", None}),
    "yaml.load": ("Loader", {"yaml.SafeLoader", "yaml.CSafeLoader", "SafeLoader", "CSafeLoader"}),
}
"""Functions that are safe with one argument given so; None: or left out."""


def imported_names(tree: ast.AST) -> dict[str, str]:
    """Return what every imported name stands for: {'np': 'numpy', 'loads': 'pickle.loads'}."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def full_name(node: ast.AST, names: dict[str, str]) -> str | None:
    """Return what an expression such as `np.lib.format.read_array` names, None if it names nothing imported."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([names.get(node.id, node.id), *reversed(parts)])


def dangers(source: str) -> list[str]:
    """Return what in a source could run the content of a file, as far as ruff cannot say it."""
    tree = ast.parse(source)
    names, found = imported_names(tree), list[str]()
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        name = full_name(node, names) if isinstance(node, ast.Attribute | ast.Name) else None
        if name in EXECUTING or (name in NEEDED and id(node) not in called and isinstance(node.ctx, ast.Load)):
            found.append(str(name))
        if isinstance(node, ast.Call):
            found += _call_dangers(node, full_name(node.func, names))
    return found


def _call_dangers(call: ast.Call, name: str | None) -> list[str]:
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    found = []
    if name in NEEDED:
        argument, allowed = NEEDED[name]
        if given.get(argument) not in allowed or None in given:
            found.append(f"{name} with {argument}={given.get(argument)}")
        if len(call.args) > (2 if name == "numpy.load" else 1):
            found.append(f"{name} with arguments by position")
    if given.get("allow_pickle", "False") != "False":
        found.append("allow_pickle")
    if given.get("weights_only", "True") != "True":
        found.append("weights_only")
    if given.get("trust_remote_code", "False") != "False":
        found.append("trust_remote_code")
    return found


def ruff_findings(*folders: Path) -> dict[str, set[str]]:
    """Return which of ruff's rules about this each file of some folders breaks, whatever it says of exceptions."""
    settings = ["--config", str(ROOT / "pyproject.toml"), "--select", ",".join(RULES), "--ignore-noqa", "--no-cache"]
    command = [sys.executable, "-m", "ruff", "check", *settings, "--output-format", "json", *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True)
    found: dict[str, set[str]] = {}
    for entry in json.loads(done.stdout):
        found.setdefault(Path(entry["filename"]).stem, set()).add(entry["code"])
    return found


def test_sources_can_run_nothing_that_a_file_contains() -> None:
    found = {str(path.relative_to(ROOT)): dangers(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {"diffviews/data/pickles/reader.py", "diffviews/data/pickles/machine.py", "panel_app/app.py"} <= set(found)
    assert {path: seen for path, seen in found.items() if seen} == {}
    seeded = {"averaged_training": {"TID251"}}  # torch.manual_seed, in a fork
    assert ruff_findings(*(ROOT / folder for folder in FOLDERS)) == seeded


DANGERS = [
    "import pickle",
    "import pickle as p\np.loads(b'')",
    "from pickle import loads as read",
    "from pickle import Unpickler\nclass Safe(Unpickler): pass",
    "import _pickle",
    "def f():\n    import dill\n    return dill.load",
    "import joblib; joblib.load(path)",
    "import cloudpickle",
    "import marshal, shelve",
    "import torch\ntorch.load('x')",
    "import torch as t\nt.load('x', weights_only=False)",
    "import torch\ntorch.load('x', weights_only=flag)",
    "import torch\ntorch.load('x', **options)",
    "import torch\nread = torch.load",
    "from torch import load\nload('x')",
    "import torch.jit\ntorch.jit.load('x')",
    "import numpy as np\nnp.load('x', allow_pickle=True)",
    "import numpy as np\nnp.load('x', None, True)",
    "import numpy\nnumpy.lib.format.read_array(f, allow_pickle=yes)",
    "import pandas as pd\npd.read_pickle('x')",
    "from pandas import read_pickle",
    "eval('1')",
    "exec(text)",
    "code = compile(text, 'f', 'exec')",
    "list(map(eval, lines))",
    "__import__(name)",
    "import yaml\nyaml.load(text)",
    "import yaml\nyaml.load(text, Loader=yaml.Loader)",
    "from yaml import load\nload(text, Loader=other)",
    "import yaml\nyaml.unsafe_load(text)",
    "import importlib.util\nimportlib.util.spec_from_file_location('m', path)",
    "from importlib.util import module_from_spec as make\nmake(spec)",
    "import runpy\nrunpy.run_path(p)",
    "import os\nos.system(command)",
    "import subprocess\nsubprocess.run(command, shell=True)",
    "AutoModel.from_pretrained(p, trust_remote_code=True)",
]


def test_every_danger_is_seen(tmp_path: Path) -> None:
    for number, snippet in enumerate(DANGERS):
        (tmp_path / f"s{number}.py").write_text(snippet)
    by_ruff = ruff_findings(tmp_path)
    assert [text for number, text in enumerate(DANGERS) if not dangers(text) and f"s{number}" not in by_ruff] == []


HARMLESS = [
    "import pickletools\npickletools.genops(f)",
    "import torch\ntorch.load('x', map_location='cpu', weights_only=True)",
    "import numpy as np\nnp.load('x')\nnp.load('x', allow_pickle=False, mmap_mode='r')",
    "import yaml\nyaml.safe_load(t)\nyaml.load(t, Loader=yaml.SafeLoader)",
    "import re, torch\nre.compile('x')\ntorch.compile(model)\nmodel.eval()",
    "import json\njson.load(f)",
    "from importlib import import_module\nimport_module('diffviews.core')",
]


def test_harmless_code_is_left_alone(tmp_path: Path) -> None:
    for number, snippet in enumerate(HARMLESS):
        (tmp_path / f"s{number}.py").write_text(snippet)
    assert [text for text in HARMLESS if dangers(text)] == []
    assert ruff_findings(tmp_path) == {}
