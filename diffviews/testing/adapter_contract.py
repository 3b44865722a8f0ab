"""What every adapter must do, as tests."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffviews.adapters import Condition, GeneratorAdapter
from diffviews.adapters.condition import conditioning_rows
from diffviews.adapters.hooks import attach_hooks, detach_hooks, primary_tensor, replace_primary
from diffviews.core import FixedTarget, GenerationRequest, Intervention, capture, generate
from diffviews.core.extractor import mean_activations
from diffviews.errors import ConfigError, LayerNotFoundError, ShapeError

SIGMAS = (0.05, 1.5, 30.0)


class AdapterContract:
    """The contract as tests; a subclass says in `make` which adapter keeps it."""

    def make(self) -> GeneratorAdapter:
        """Return the adapter, with the same weights at each call."""
        raise NotImplementedError

    @pytest.fixture
    def adapter(self) -> GeneratorAdapter:
        return self.make().to("cpu").eval()

    def inputs(self, adapter: GeneratorAdapter, count: int = 3) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        x = torch.randn(count, *adapter.input_shape, generator=torch.Generator().manual_seed(1))
        sigma = torch.tensor([SIGMAS[i % 3] for i in range(count)])
        return x * (1 + sigma).reshape(-1, 1, 1, 1), sigma, adapter.condition(self.conditions(adapter, count))

    def conditions(self, adapter: GeneratorAdapter, count: int) -> list[Condition]:
        if adapter.takes_prompts:
            return [Condition(prompt=("a cat", "a red house by the sea", "")[i % 3]) for i in range(count)]
        return [Condition(class_id=i % max(adapter.num_classes, 1)) for i in range(count)]

    def knows_no_class(self, adapter: GeneratorAdapter) -> bool:
        """Say whether the model can be asked for no class in particular."""
        return adapter.class_input == "one-hot" or adapter.num_classes == 0 or adapter.null_class is not None

    def test_adapter_describes_itself(self, adapter: GeneratorAdapter) -> None:
        assert isinstance(adapter, GeneratorAdapter)
        assert adapter.model_type
        assert adapter.resolution >= 1
        assert adapter.num_classes >= 0
        assert len(set(adapter.hookable_layers)) == len(adapter.hookable_layers) >= 1
        low, high = adapter.sigma_range
        assert 0 < low < high
        assert adapter.default_steps >= 1
        assert adapter.device == torch.device("cpu")
        json.dumps(adapter.get_default_config())

    def test_forward_keeps_the_shape_with_and_without_labels(self, adapter: GeneratorAdapter) -> None:
        x, sigma, conditioning = self.inputs(adapter)
        uniform = [adapter.condition([Condition(class_id=-1)] * 3)] if self.knows_no_class(adapter) else []
        for given in (conditioning, *uniform, adapter.uncondition(self.conditions(adapter, 3)), {}):
            denoised = adapter.forward(x, sigma, **given)
            assert denoised.shape == x.shape
            assert torch.isfinite(denoised).all()

    def test_forward_takes_one_sigma_for_all(self, adapter: GeneratorAdapter) -> None:
        x, _, given = self.inputs(adapter)
        one = adapter.forward(x, torch.tensor(2.0), **given)
        each = adapter.forward(x, torch.full((3,), 2.0), **given)
        torch.testing.assert_close(one, each)

    def test_forward_treats_samples_alone(self, adapter: GeneratorAdapter) -> None:
        x, sigma, given = self.inputs(adapter)
        together = adapter.forward(x, sigma, **given)
        for i in range(3):
            alone = adapter.forward(x[i : i + 1], sigma[i : i + 1], **conditioning_rows(given, slice(i, i + 1)))
            torch.testing.assert_close(alone, together[i : i + 1], atol=1e-4, rtol=1e-4)

    def test_layer_shapes_are_those_of_the_outputs(self, adapter: GeneratorAdapter) -> None:
        shapes = adapter.get_layer_shapes()
        assert set(shapes) == set(adapter.hookable_layers)
        x, _, given = self.inputs(adapter, 2)
        captured = capture(adapter, x, ["a", "b"], given, 1.5, adapter.hookable_layers)
        assert {name: tuple(value.shape[1:]) for name, value in captured.items()} == shapes

    def test_every_replacement_reaches_the_result(self, adapter: GeneratorAdapter) -> None:
        x, sigma, given = self.inputs(adapter)
        before = adapter.forward(x, sigma, **given)
        for layer in adapter.hookable_layers:

            def shift(module: Any, inputs: Any, output: Any) -> Any:
                return replace_primary(output, primary_tensor(output) * 0.2 + 0.3)

            handles = attach_hooks(adapter, {layer: shift})
            changed = adapter.forward(x, sigma, **given)
            detach_hooks(handles)
            assert not torch.allclose(changed, before, atol=1e-6), layer
            assert torch.equal(adapter.forward(x, sigma, **given), before), f"{layer}: the hook stayed"

    def test_unknown_layer_is_refused(self, adapter: GeneratorAdapter) -> None:
        with pytest.raises(LayerNotFoundError, match="no_such_layer"):
            attach_hooks(adapter, {"no_such_layer": lambda *_: None})

    def test_images_survive_encoding_and_decoding(self, adapter: GeneratorAdapter) -> None:
        shape = (2, adapter.resolution, adapter.resolution, 3)
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        x0 = adapter.encode(images)
        assert x0.shape == (2, *adapter.input_shape)
        assert x0.dtype == torch.float32
        assert np.abs(adapter.decode(x0).astype(int) - images).max() <= 1
        with pytest.raises(ShapeError, match="resize"):
            adapter.encode(images[:, 1:])

    def test_classes_are_given_as_the_model_takes_them(self, adapter: GeneratorAdapter) -> None:
        if adapter.class_input == "one-hot" or adapter.num_classes == 0 or adapter.takes_prompts:
            return
        last = adapter.num_classes - 1
        given = adapter.condition([Condition(class_id=0), Condition(class_id=last)])["class_labels"]
        assert given.dtype == torch.int64
        assert given.tolist() == [0, last]
        if adapter.null_class is None:
            with pytest.raises(ConfigError, match="ask for a class"):
                adapter.condition([Condition(class_id=-1)])
        else:
            assert adapter.condition([Condition(class_id=-1)])["class_labels"].tolist() == [adapter.null_class]

    def test_labels_are_one_hot_or_uniform(self, adapter: GeneratorAdapter) -> None:
        classes = adapter.num_classes
        if classes == 0:
            assert adapter.make_labels([-1]) is None
            return
        labels = adapter.make_labels([0, classes - 1, -1])
        assert labels is not None
        expected = torch.stack([torch.eye(classes)[0], torch.eye(classes)[-1], torch.full((classes,), 1 / classes)])
        torch.testing.assert_close(labels, expected)

    @pytest.mark.parametrize("sampler", ["heun", "euler", "renoise"])
    def test_generation_is_finite_and_independent_of_the_batch(self, adapter: GeneratorAdapter, sampler: Any) -> None:
        layer = adapter.hookable_layers[-1]
        ask: dict[str, Any] = {"num_samples": 3, "seed": 5, "sampler": sampler, "num_steps": 3}
        if adapter.takes_prompts:
            ask["prompts"] = tuple(str(condition.prompt) for condition in self.conditions(adapter, 3))
        whole = generate(adapter, GenerationRequest(**ask, record_layers=(layer,)))
        single = generate(adapter, GenerationRequest(**ask, record_layers=(layer,), batch_size=1))
        assert whole.images.shape == (3, adapter.resolution, adapter.resolution, 3)
        assert np.isfinite(whole.trajectory[layer]).all()
        assert np.array_equal(whole.labels, single.labels)
        assert np.abs(whole.images.astype(int) - single.images).max() <= 1

    def test_masked_generation_differs_from_its_baseline(self, adapter: GeneratorAdapter) -> None:
        layer = adapter.hookable_layers[0]
        x, _, given = self.inputs(adapter)
        target = FixedTarget(mean_activations(adapter, x, ["a", "b", "c"], given, 1.5, [layer])[layer])
        request = GenerationRequest(num_steps=2, seed=1, interventions=(Intervention(layer, target),))
        result = generate(adapter, request)
        assert result.difference_images is not None
        assert result.difference_images.any()

    def test_digest_belongs_to_the_weights(self, adapter: GeneratorAdapter) -> None:
        assert adapter.digest() == adapter.digest() == self.make().to("cpu").digest()
        parameters = [p for network in adapter._networks() for p in network.parameters()]
        if parameters:
            other = self.make().to("cpu")
            changed = next(p for network in other._networks() for p in network.parameters())
            changed.data = changed.data + 1e-3
            assert other.digest() != adapter.digest()
