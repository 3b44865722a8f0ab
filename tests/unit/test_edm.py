"""The EDM adapters: layers, checkpoints and their faults, the older sampling method."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffviews.adapters.edm_digits import EDMDigitsAdapter
from diffviews.adapters.edm_imagenet import EDMImageNetAdapter
from diffviews.core import GenerationRequest, generate
from diffviews.errors import CheckpointError, ConfigError, LayerNotFoundError
from diffviews.models.adm_unet import ADMUNet
from tests.checkpoints import SMALL, small_edm_checkpoint

REFERENCE = Path(__file__).parents[1] / "data" / "edm_small_reference.safetensors"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return small_edm_checkpoint(tmp_path / "small.safetensors")


@pytest.fixture
def adapter(checkpoint: Path) -> EDMDigitsAdapter:
    return EDMDigitsAdapter.from_checkpoint(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def reference_adapter(tmp_path_factory: pytest.TempPathFactory) -> EDMDigitsAdapter:
    with safe_open(REFERENCE, "pt") as opened:
        config = opened.metadata()["config"]
        weights = {k.removeprefix("weights."): opened.get_tensor(k) for k in opened.keys() if "weights." in k}  # noqa: SIM118
    path = tmp_path_factory.mktemp("reference") / "reference.safetensors"
    save_file(weights, path, metadata={"config": config})
    return EDMDigitsAdapter.from_checkpoint(path, device="cpu")


def test_adapter_reproduces_the_reference_through_its_public_layers(reference_adapter: EDMDigitsAdapter) -> None:
    data = load_file(REFERENCE)
    seen: dict[str, torch.Tensor] = {}
    for layer in reference_adapter.hookable_layers:
        reference_adapter.register_activation_hooks([layer], lambda m, i, o, layer=layer: seen.__setitem__(layer, o))
    with torch.no_grad():
        denoised = reference_adapter.forward(data["io.x"], data["io.sigma"], data["io.labels"])
    reference_adapter.remove_hooks()
    assert (denoised - data["io.denoised"]).abs().max() <= 2e-4
    expected = {k.removeprefix("activation."): v for k, v in data.items() if k.startswith("activation.")}
    assert set(seen) == set(expected) == set(reference_adapter.get_layer_shapes())
    assert max((seen[layer] - value).abs().max() for layer, value in expected.items()) <= 2e-4
    with torch.no_grad():
        unconditional = reference_adapter.forward(data["io.x"], data["io.sigma"], None)
    assert (unconditional - data["io.denoised_unconditional"]).abs().max() <= 2e-4


def test_replaced_encoder_block_reaches_its_skip(adapter: EDMDigitsAdapter) -> None:
    layer = "encoder_block_0"
    mask = torch.randn(1, *adapter.get_layer_shapes()[layer])
    adapter.register_activation_hooks([layer], adapter.make_mask_hook(layer, mask))
    results = []
    for scale in (1.0, 5.0):
        x = torch.full((1, 3, 16, 16), scale)
        # D - c_skip · x is the network's part, which must not know x any more.
        sigma = torch.tensor([2.0])
        results.append(adapter.forward(x, sigma) - 0.25 / 4.25 * x)
    adapter.remove_hooks()
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


def test_adapter_tracks_the_hooks_put_on_it(adapter: EDMDigitsAdapter) -> None:
    layers = adapter.hookable_layers
    handles = adapter.register_activation_hooks(layers, lambda *_: None)
    assert adapter.num_hooks == len(handles) == len(layers)
    handles[0].remove()
    assert adapter.num_hooks == len(layers) - 1
    adapter.remove_hooks()
    assert adapter.num_hooks == 0
    assert not any(module._forward_hooks for module in adapter.model.modules())


def test_unknown_layer_registers_nothing(adapter: EDMDigitsAdapter) -> None:
    with pytest.raises(LayerNotFoundError, match="did you mean 'midblock'"):
        adapter.register_activation_hooks(["encoder_block_0", "midblok"], lambda *_: None)
    assert adapter.num_hooks == 0


def test_full_size_configuration_is_that_of_the_published_model() -> None:
    config = EDMImageNetAdapter.get_default_config()
    options = {k: v for k, v in config.items() if not k.startswith("sigma")}
    with torch.device("meta"):
        network = ADMUNet(**options)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(295.9e6, rel=1e-3)
    listed = json.loads((REFERENCE.parent / "edm_imagenet64_state_dict.json").read_text())
    assert {f"model.{k}": list(v.shape) for k, v in network.state_dict().items()} == {
        k: shape for k, (shape, _) in listed.items()
    }


def test_configuration_may_lie_beside_the_weights(tmp_path: Path, checkpoint: Path) -> None:
    moved = tmp_path / "moved.safetensors"
    save_file(load_file(checkpoint), moved)
    with pytest.raises(CheckpointError, match="does not fit the network"):
        EDMDigitsAdapter.from_checkpoint(moved, device="cpu")
    moved.with_suffix(".json").write_text(json.dumps({"network": SMALL, "training": {"steps": 1}}))
    adapter = EDMDigitsAdapter.from_checkpoint(moved, device="cpu")
    assert adapter.config["model_channels"] == SMALL["model_channels"]
    assert adapter.digest() == EDMDigitsAdapter.from_checkpoint(checkpoint, device="cpu").digest()
    moved.with_suffix(".json").write_text("[1, 2")
    with pytest.raises(CheckpointError, match="configuration of checkpoint"):
        EDMDigitsAdapter.from_checkpoint(moved, device="cpu")


def test_label_dropout_and_options_override_the_checkpoint(checkpoint: Path) -> None:
    assert EDMDigitsAdapter.from_checkpoint(checkpoint, device="cpu").label_dropout == 0.1
    assert EDMDigitsAdapter.from_checkpoint(checkpoint, device="cpu", label_dropout=0.3).label_dropout == 0.3
    with pytest.raises(ConfigError, match="did you mean 'num_blocks'"):
        EDMDigitsAdapter.from_checkpoint(checkpoint, device="cpu", num_block=2)


def test_default_device_falls_back_where_there_is_no_cuda(checkpoint: Path) -> None:
    adapter = EDMDigitsAdapter.from_checkpoint(checkpoint)
    assert adapter.device.type == ("cuda" if torch.cuda.is_available() else adapter.device.type)


@pytest.mark.parametrize("fault", ["truncated", "text", "pickle", "nan", "missing", "shape"])
def test_damaged_checkpoint_is_refused_by_name(tmp_path: Path, checkpoint: Path, fault: str) -> None:
    weights = load_file(checkpoint)
    path = tmp_path / f"{fault}.safetensors"
    first = sorted(weights)[0]
    if fault == "truncated":
        path.write_bytes(checkpoint.read_bytes()[:-100])
    elif fault == "text":
        path.write_text("not weights at all")
    elif fault == "pickle":
        path = path.with_suffix(".pkl")
        path.write_bytes(b"\x80\x04cos\nsystem\n.")
    else:
        if fault == "nan":
            weights[first] = torch.full_like(weights[first], float("nan"))
        elif fault == "missing":
            del weights[first]
        else:
            weights[first] = torch.zeros(1, 1)
        save_file(weights, path, metadata={"config": json.dumps(SMALL)})
    with pytest.raises(CheckpointError, match=path.name) as caught:
        EDMDigitsAdapter.from_checkpoint(path, device="cpu")
    if fault in ("nan", "missing", "shape"):
        assert first.removeprefix("model.") in str(caught.value)


def test_sample_gives_clipped_images_and_their_classes(adapter: EDMDigitsAdapter) -> None:
    state = torch.get_rng_state()
    images, labels = adapter.sample(2, class_label=0, num_steps=3, S_churn=5.0)
    assert images.shape == (2, 3, 16, 16)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    assert labels.tolist() == [0, 0]
    random_classes = adapter.sample(8, num_steps=1)[1]
    assert ((random_classes >= 0) & (random_classes < 10)).all()
    assert adapter.sample(1, class_label=-1, num_steps=1)[1].tolist() == [-1]
    assert torch.equal(torch.get_rng_state(), state)


def test_shipped_digits_model_generates_finite_images() -> None:
    adapter = EDMDigitsAdapter.from_checkpoint(None, device="cpu")
    result = generate(adapter, GenerationRequest(class_labels=(0, 1, -1), num_samples=3, seed=0, num_steps=6))
    assert result.images.shape == (3, 16, 16, 3)
    assert result.images.std() > 20
    assert adapter.class_names == tuple("0123456789")
    assert adapter.label_dropout > 0


def test_imagenet_classes_have_their_standard_names() -> None:
    names = EDMImageNetAdapter.class_names.fget  # the names need no weights
    assert names is not None
    assert names(type("Thousand", (), {"num_classes": 1000})())[207] == "golden_retriever"


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_runs_the_network_in_it_and_stays_near_float32(precision):
    whole = EDMDigitsAdapter.from_checkpoint(None, "cpu")
    half = EDMDigitsAdapter.from_checkpoint(None, "cpu", precision=precision)
    assert (whole.precision, half.precision) == ("float32", precision)
    assert whole.digest() != half.digest()
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2
    expected, found = whole.forward(x, 2.0), half.forward(x, 2.0)
    assert found.dtype == torch.float32
    assert (found - expected).abs().mean() < 0.02
    assert not torch.equal(found, expected)
    with pytest.raises(ConfigError, match="precision 'float8' is not one of"):
        EDMDigitsAdapter.from_checkpoint(None, "cpu", precision="float8")
