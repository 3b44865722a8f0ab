"""The adapter contract, kept by the adapters of this package, the tests' own and a third party's."""

import logging
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from diffviews.adapters import GeneratorAdapter, get_adapter, list_adapters, load_adapter, registry
from diffviews.adapters.edm_digits import EDMDigitsAdapter
from diffviews.errors import AdapterNotFoundError
from diffviews.testing import AdapterContract
from tests.checkpoints import small_edm_checkpoint
from tests.fakes import GaussianAdapter, SkipAdapter

PACKAGE = Path(__file__).parent / "third_party_adapter"


def install(target: Path, package: Path = PACKAGE) -> None:
    """Put a package and its entry points where importlib.metadata finds them, as pip would."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    shutil.copytree(package / "src", target, dirs_exist_ok=True)
    info = target / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def fresh_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in vars(registry._Registry()).items():
        monkeypatch.setattr(registry._REGISTRY, name, value)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_registry: None) -> Path:
    install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "plaid_adapter", raising=False)
    return tmp_path


class TestGaussianAdapter(AdapterContract):
    def make(self) -> GeneratorAdapter:
        return GaussianAdapter()


class TestSkipAdapter(AdapterContract):
    def make(self) -> GeneratorAdapter:
        return SkipAdapter()


class TestCopiedSkipAdapter(AdapterContract):
    def make(self) -> GeneratorAdapter:
        return SkipAdapter(copy_skip=True)


class TestEDMAdapter(AdapterContract):
    @pytest.fixture(autouse=True)
    def _checkpoint(self, tmp_path: Path) -> None:
        self.path = small_edm_checkpoint(tmp_path / "small.safetensors")

    def make(self) -> GeneratorAdapter:
        return EDMDigitsAdapter.from_checkpoint(self.path, device="cpu")


class TestThirdPartyAdapter(AdapterContract):
    @pytest.fixture(autouse=True)
    def _installed(self, installed: Path) -> None:
        """The package is installed for each test."""

    def make(self) -> GeneratorAdapter:
        return load_adapter("plaid", device="cpu")


def test_third_party_adapter_is_listed_beside_the_built_in_ones(installed: Path) -> None:
    assert {"plaid", "edm-digits", "edm-imagenet-64"} <= set(list_adapters())
    assert get_adapter("plaid").__name__ == "PlaidAdapter"


def test_documented_adapter_is_the_package_that_is_tested() -> None:
    documented = (PACKAGE.parents[2] / "docs" / "adapters.md").read_text()
    assert (PACKAGE / "src" / "plaid_adapter" / "__init__.py").read_text().strip() in documented
    assert 'plaid = "plaid_adapter:PlaidAdapter"' in documented
    assert (PACKAGE.parent / "lucidrains_adapter.py").read_text() in documented
    azula = (PACKAGE.parent / "azula_adapter.py").read_text()
    shown = documented[documented.index("**azula.**") :].split("```python\n")[1].split("```")[0]
    assert all(part.strip() in azula for part in shown.split("\n\n"))
    assert "def layer_modules" in shown
    assert "def forward" in shown


def test_plug_in_extracts_maps_and_generates_through_the_commands(installed: Path, tmp_path: Path) -> None:
    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "diffviews", *words],
            cwd=store,
            env=os.environ | {"PYTHONPATH": f"{installed}:{Path(__file__).parents[2]}"},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    store = tmp_path / "store"
    store.mkdir()
    assert "first" in run("layers", "--model", "plaid")
    assert "finished" in run("extract", "--model", "plaid", "--max_samples", "40", "--sigmas", "0.5")
    assert "2 images" in run("generate", "--model", "plaid", "--num_samples", "2", "--num_steps", "3")


def test_broken_plug_in_is_named_and_does_not_hide_the_others(
    installed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    info = installed / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[diffviews.adapters]\nbroken = no_such_module:Adapter\n")
    with caplog.at_level(logging.WARNING):
        names = list_adapters()
    assert "plaid" in names
    assert "broken" not in names
    assert "'broken'" in caplog.text
    assert "no_such_module" in caplog.text
    with pytest.raises(AdapterNotFoundError, match=r"plug-in cannot be loaded.*no_such_module"):
        get_adapter("broken")


def test_fresh_process_finds_the_plug_in_and_imports_nothing_heavy_before(installed: Path) -> None:
    program = (
        "import sys, diffviews; assert 'torch' not in sys.modules; "
        "print(*diffviews.list_adapters()); print(diffviews.get_adapter('plaid').__module__)"
    )
    path = f"{installed}:{Path(__file__).parents[2]}"
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    names = done.stdout.split()
    assert {"edm-digits", "edm-imagenet-64", "plaid"} < set(names)
    assert names[-1] == "plaid_adapter"
