"""The adapter contract, kept by the adapters of EDM's other networks, EDM2's and guided-diffusion's."""

from pathlib import Path

import pytest

from diffviews.adapters import GeneratorAdapter, load_adapter
from diffviews.testing import AdapterContract
from tests.contract.test_diffusion_adapters import LatentContract
from tests.edm_networks import cases, edm_snapshot, guided_file, tiny_vae


class SnapshotContract(AdapterContract):
    """The contract for a network as its authors' training saves it."""

    name: str
    case: str

    @pytest.fixture(autouse=True, scope="class")
    def _file(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        path, case = tmp_path_factory.mktemp("network") / "network", {**cases("edm"), **cases("edm2")}[self.case]
        type(self).path = edm_snapshot(path.with_suffix(".pkl"), case["class_name"], case["options"])

    path: Path

    def make(self) -> GeneratorAdapter:
        return load_adapter(self.name, self.path, device="cpu")


class TestDDPMPlusPlus(SnapshotContract):
    name, case = "edm-ffhq-64", "ddpm++ edm"


class TestNCSNPlusPlus(SnapshotContract):
    name, case = "edm-cifar10", "ncsn++ edm"


class TestVariancePreserving(SnapshotContract):
    name, case = "edm-cifar10", "skip vp"


class TestVarianceExploding(SnapshotContract):
    name, case = "edm-afhqv2-64", "ncsn++ ve"


class TestDiscreteLevels(SnapshotContract):
    name, case = "edm-imagenet-64", "adm iddpm"


class TestEDM2(SnapshotContract):
    name, case = "edm2-imagenet-64", "edm2"


class TestUnconditionalEDM2(SnapshotContract):
    name, case = "edm", "edm2 unconditional"


class TestGuidedDiffusion(AdapterContract):
    @pytest.fixture(autouse=True, scope="class")
    def _file(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        path = tmp_path_factory.mktemp("network") / "model.pt"
        type(self).path = guided_file(path, cases("guided")["guided four heads"])

    path: Path

    def make(self) -> GeneratorAdapter:
        return load_adapter("adm-imagenet-64", self.path, device="cpu")


class TestLatentEDM2(LatentContract):
    """Of a network over a tiny random VAE's latents."""

    @pytest.fixture(autouse=True, scope="class")
    def _folder(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder, case = tmp_path_factory.mktemp("latent"), cases("edm2")["edm2"]
        type(self).path = edm_snapshot(folder / "net.pkl", case["class_name"], {**case["options"], "img_channels": 4})
        type(self).vae = tiny_vae(folder / "vae")

    vae: Path

    def make(self) -> GeneratorAdapter:
        return load_adapter("edm2-imagenet-512", self.path, device="cpu", base=self.vae)
