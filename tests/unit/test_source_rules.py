"""Rules that every source file keeps: nothing that is read may execute, nothing is printed, nothing global."""

import ast
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("diffviews", "panel_app", "experiments") for path in (ROOT / folder).rglob("*.py"))
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def calls(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def name_of(call):
    return ast.unparse(call.func)


@pytest.fixture(params=SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def tree(request):
    return ast.parse(request.param.read_text())


def test_source_unpickles_nothing(tree):
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in ([ast.alias(node.module or "")] if isinstance(node, ast.ImportFrom) else node.names)
    }
    assert not imported & FORBIDDEN_IMPORTS
    for call in calls(tree):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert keywords.get("allow_pickle") != "True"
        assert keywords.get("weights_only") != "False"
        if name_of(call) in ("torch.load", "load") and "torch" in imported and name_of(call) == "torch.load":
            assert keywords.get("weights_only") == "True"
        if name_of(call) in ("np.load", "numpy.load"):
            assert keywords.get("allow_pickle", "False") == "False"


def test_source_evaluates_nothing(tree):
    assert not [call for call in calls(tree) if name_of(call) in ("eval", "exec", "compile", "__import__", "yaml.load")]
    for call in calls(tree):
        assert not [k for k in call.keywords if k.arg == "shell" and ast.unparse(k.value) == "True"]


def test_source_prints_nothing_and_has_no_globals(tree):
    assert not [call for call in calls(tree) if name_of(call) == "print"]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]


def test_source_sets_no_global_seed_or_mode(tree):
    banned = ("torch.manual_seed", "np.random.seed", "random.seed", "use_deterministic_algorithms", "seed_everything")
    forked = "fork_rng" in ast.unparse(tree)
    found = [name_of(call) for call in calls(tree) if name_of(call).endswith(banned)]
    assert not found or (forked and set(found) == {"torch.manual_seed"})


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
