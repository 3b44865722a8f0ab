"""A forward pass ends after the last wanted layer, and what it gave is what a whole pass gives."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffviews.adapters import Condition, GeneratorAdapter, load_adapter
from diffviews.adapters.base import single_pass
from diffviews.core import FixedTarget, Intervention, InterventionSession, MatchedTarget, capture, mean_activations
from diffviews.noise import sample_noise
from tests.diffusion_folders import draw_ddpm_pipeline, draw_sd_pipeline, draw_sdxl_pipeline, saved
from tests.fakes import GaussianAdapter, SkipAdapter

IDS = ["a", "b", "c"]
X0 = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@contextmanager
def counted(*networks: nn.Module) -> Iterator[Counter[str]]:
    """Count how often the forward of each module inside the networks is begun."""
    calls: Counter[str] = Counter()
    handles = [
        module.register_forward_pre_hook(lambda m, inputs, name=name: calls.update([name]))
        for network in networks
        for name, module in network.named_modules()
    ]
    yield calls
    for handle in handles:
        handle.remove()


def whole_pass(adapter: GeneratorAdapter, layers: list[str], sigma: float, x0: Tensor = X0, **given: Tensor) -> Any:
    """Return what a session records of a pass that runs to its end."""
    noised = capture_input(x0, sigma)
    with InterventionSession(adapter, record_layers=layers) as session, session.evaluation(0, sigma):
        adapter.forward(noised, torch.full((len(x0),), sigma), **given)
    return session.natural


def capture_input(x0: Tensor, sigma: float) -> Tensor:
    return x0 + sigma * sample_noise(IDS[: len(x0)], x0.shape[1:])


def test_blocks_after_the_last_wanted_one_are_not_run() -> None:
    adapter = load_adapter("edm-digits", device="cpu")
    x0 = torch.zeros(2, *adapter.input_shape)
    given = adapter.condition([Condition(1), Condition(-1)])
    wanted = ["encoder_block_3", "encoder_block_1"]
    expected = whole_pass(adapter, wanted, 2.0, x0, **given)
    network: Any = adapter.model.model  # type: ignore[attr-defined]
    with counted(network) as calls:
        captured = capture(adapter, x0, IDS[:2], given, 2.0, wanted)
    paths = network.hook_points
    names = list(paths)
    reached = names[: names.index("encoder_block_3") + 1]
    assert {name: calls[paths[name]] for name in names} == {name: int(name in reached) for name in names}
    assert calls["out_conv"] == 0
    assert all(torch.equal(captured[layer], expected[layer]) for layer in wanted)
    assert sum(len(module._forward_hooks) for module in network.modules()) == 0


@pytest.mark.parametrize("draw", [draw_sd_pipeline, draw_sdxl_pipeline, draw_ddpm_pipeline])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_blocks_of_a_diffusers_network_end_too(draw: Any, precision: str, tmp_path: Path) -> None:
    name = {draw_sd_pipeline: "sd-v1.5", draw_sdxl_pipeline: "sdxl", draw_ddpm_pipeline: "ddpm"}[draw]
    adapter: Any = load_adapter(name, saved(draw(1), tmp_path / "model"), device="cpu", precision=precision)
    x0 = torch.zeros(2, *adapter.input_shape)
    text = [Condition(prompt="a cat"), Condition(prompt="two dogs")] if adapter.takes_prompts else []
    for given in (adapter.condition(text), {}):
        expected = whole_pass(adapter, ["h_space", "down_block_0"], 2.0, x0, **given)
        with counted(adapter.unet) as calls:
            captured = capture(adapter, x0, IDS[:2], given, 2.0, ["h_space", "down_block_0"])
        assert calls["mid_block"] == 1
        assert not any(name.startswith("up_blocks.") for name in calls)
        assert all(torch.equal(captured[layer], expected[layer]) for layer in captured)


def test_third_partys_forward_runs_whole_once_for_each_kind_of_pass() -> None:
    adapter = SkipAdapter()
    given = adapter.condition([Condition(1)] * 3)
    for conditioning, sigma in ((given, 2.0), ({}, 2.0), (given, 5.0)):
        expected = whole_pass(adapter, ["down"], sigma, **conditioning)["down"]
        for first in (True, False):
            with counted(adapter.layers) as calls:
                captured = capture(adapter, X0, IDS, conditioning, sigma, ["down"])["down"]
            assert (calls["down"], calls["up"]) == (1, int(first))
            assert torch.equal(captured, expected)


def test_marked_forward_ends_early_from_its_first_pass_and_the_mark_is_not_inherited() -> None:
    class Marked(SkipAdapter):
        @single_pass
        def forward(self, *arguments: Any, **options: Any) -> Tensor:
            return super().forward(*arguments, **options)

    class Twice(Marked):
        def forward(self, *arguments: Any, **options: Any) -> Tensor:
            return super().forward(*arguments, **options) - 0.1 * super().forward(arguments[0] * 2, *arguments[1:])

    for cls, expected in ((Marked, 0), (Twice, 2)):
        adapter = cls()
        with counted(adapter.layers) as calls:
            capture(adapter, X0, IDS, {}, 2.0, ["down"])
        assert calls["up"] == expected


class Repeating(GaussianAdapter):
    """Reaches 'input' twice in a pass, the second time with a doubled input, as a model that guides itself."""

    def forward(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        first = super().forward(x, sigma, class_labels)
        return first + super().forward(2 * x, sigma, class_labels)


def test_layer_reached_twice_gives_its_last_value_in_every_pass() -> None:
    adapter = Repeating()
    for _ in range(3):
        with counted(adapter.layers) as calls:
            captured = capture(adapter, X0, IDS, {}, 2.0, ["input"])["input"]
        assert torch.equal(captured, 2 * capture_input(X0, 2.0))
    assert (calls["input"], calls["denoised"]) == (2, 1)


class Skipping(SkipAdapter):
    """Has a layer that no pass reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.layers["idle"] = nn.Identity()


def test_layer_never_reached_is_told_and_lets_the_others_be_captured(caplog: pytest.LogCaptureFixture) -> None:
    adapter = Skipping()
    for _ in range(2):
        caplog.clear()
        with counted(adapter.layers) as calls, caplog.at_level(logging.WARNING):
            assert set(capture(adapter, X0, IDS, {}, 2.0, ["idle", "down"])) == {"down"}
        assert caplog.text.count("'idle' was not reached") == 1
        assert calls["up"] == 1


def test_mean_and_matched_targets_end_early_but_not_the_pass_they_serve() -> None:
    adapter = SkipAdapter()
    expected = mean_activations(adapter, X0, IDS, {}, 1.0, ["down"])["down"]
    matched = MatchedTarget(adapter, "down", X0, IDS)
    with (
        counted(adapter.layers) as calls,
        InterventionSession(adapter, [Intervention("down", matched)]) as session,
        session.evaluation(0, 1.0),
    ):
        adapter.forward(X0, 1.0)
    assert torch.equal(matched.at(1.0), expected)
    assert (calls["down"], calls["up"]) == (2, 1)


def test_errors_of_the_model_and_of_the_caller_pass_through_an_early_ended_pass() -> None:
    adapter = GaussianAdapter()
    with (
        InterventionSession(adapter, [], ["input"]) as session,
        pytest.raises(RuntimeError, match="size of tensor"),
        session.evaluation(0, 1.0, stop_early=True),
    ):
        adapter.forward(torch.zeros(2, 3, 8, 8), torch.ones(3))

    def fail(layer: str, own: Tensor) -> None:
        raise KeyError(layer)

    with pytest.raises(KeyError, match="input"):
        capture(adapter, X0, IDS, {}, 1.0, ["input"], keep=fail)
    assert sum(len(module._forward_hooks) for module in adapter.layers.values()) == 0


def marked(forward: Callable[..., Tensor]) -> GaussianAdapter:
    """Return an adapter whose forward is this one, ending early from the first pass on."""
    return type("Marked", (GaussianAdapter,), {"forward": single_pass(forward)})()


def test_forward_that_catches_exceptions_and_its_clean_up_live() -> None:
    cleaned: list[bool] = []

    def careful(self: Any, *arguments: Any, **options: Any) -> Tensor:
        try:
            return GaussianAdapter.forward(self, *arguments, **options)
        except Exception:  # noqa: BLE001 - as a forward that falls back to a slower way
            return torch.zeros(0)
        finally:
            cleaned.append(torch.is_grad_enabled())

    adapter = marked(careful)
    with torch.no_grad(), counted(adapter.layers) as calls:
        assert torch.equal(capture(adapter, X0, IDS, {}, 1.0, ["input"])["input"], capture_input(X0, 1.0))
    assert cleaned == [False]
    assert calls["denoised"] == 0
    assert torch.is_grad_enabled()


def test_stop_of_one_session_leaves_the_other_on_the_same_adapter_alone() -> None:
    adapter = marked(lambda self, *arguments, **options: GaussianAdapter.forward(self, *arguments, **options))
    whole: list[Tensor] = []

    def other(layer: str, own: Tensor) -> Tensor:
        # In another thread, while this pass is about to end early, an ordinary one runs to its end.
        thread = threading.Thread(target=lambda: whole.append(adapter.forward(X0, 1.0)))
        thread.start()
        thread.join(10)
        return own.clone()

    mask = Intervention("input", FixedTarget(torch.ones(1, 3, 8, 8)))
    with InterventionSession(adapter, [mask]) as session, session.evaluation(0, 1.0):
        captured = capture(adapter, X0, IDS, {}, 1.0, ["input"], keep=other)["input"]
        masked = adapter.forward(X0, 1.0)
    assert torch.equal(captured, capture_input(X0, 1.0))
    assert torch.equal(whole[0], adapter.forward(X0, 1.0))
    assert (masked == masked[:1]).all()
