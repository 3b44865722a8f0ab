"""Interventions and the session that applies them."""

import logging
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from diffviews.core import (
    ActivationExtractor,
    DirectionTarget,
    FixedTarget,
    Intervention,
    InterventionSession,
    MatchedTarget,
    capture,
)
from diffviews.errors import ConfigError, LayerNotFoundError, SelectionError, ShapeError
from diffviews.noise import sample_noise
from tests.fakes import GaussianAdapter, SkipAdapter, gaussian_denoised

SHAPE = (3, 8, 8)


def own_output(batch: int = 2) -> Tensor:
    return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(0))


def target(value: float, shape: tuple[int, ...] = SHAPE) -> FixedTarget:
    return FixedTarget(torch.full((1, *shape), value))


def run(adapter: Any, session: InterventionSession, x: Tensor, step: int = 0, **options: Any) -> Tensor:
    with session.evaluation(step, 1.0, **options):
        return adapter.forward(x, torch.ones(len(x)))


def hooks_left(adapter: Any) -> int:
    return sum(len(module._forward_hooks) for module in adapter.layers.values())


def test_modes_are_their_formulas() -> None:
    own, value = own_output(), torch.full((1, *SHAPE), 2.0)
    by_mode = {
        "replace": value.expand_as(own),
        "add": own + 0.25 * value,
        "interpolate": 0.75 * own + 0.25 * value,
    }
    for mode, expected in by_mode.items():
        item = Intervention("input", FixedTarget(value), mode=mode, strength=0.25)  # type: ignore[arg-type]
        torch.testing.assert_close(item.apply(own, value), expected)


def test_channels_and_region_limit_where_it_acts() -> None:
    own, value = own_output(), torch.full((1, *SHAPE), 2.0)
    item = Intervention("input", FixedTarget(value), channels=(0, 2), region=(1, 2, 3, 4))
    expected = own.clone()
    expected[:, [0, 2], 1:4, 2:6] = 2.0
    assert torch.equal(item.apply(own, value), expected)
    tokens = torch.zeros(2, 5, 4)
    limited = Intervention("tokens", target(1.0, (5, 4)), channels=(3,)).apply(tokens, torch.ones(1, 5, 4))
    assert torch.equal(limited, torch.tensor([0.0, 0, 0, 1]).expand(2, 5, 4))


def test_steps_and_passes_limit_when_it_acts() -> None:
    item = Intervention("input", target(0.0), steps=(1, 3), passes="unconditional")
    acted = [(s, p) for s in range(4) for p in ("conditional", "unconditional") if item.acts(s, p)]  # type: ignore[arg-type]
    assert acted == [(1, "unconditional"), (2, "unconditional")]
    assert Intervention("input", target(0.0)).acts(99, "conditional")


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "erase"},
        {"mode": 5},
        {"passes": "none"},
        {"strength": float("nan")},
        {"steps": (2, 2)},
        {"steps": (-1, 2)},
        {"channels": ()},
        {"channels": (1, 1)},
        {"region": (0, 0, 0, 4)},
        {"region": (-1, 0, 2, 2)},
    ],
)
def test_impossible_intervention_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Intervention("input", target(0.0), **wrong)


@pytest.mark.parametrize(
    ("layer", "options", "error", "named"),
    [
        ("inputs", {}, LayerNotFoundError, "did you mean 'input'"),
        ("input", {"target": target(0.0, (3, 8, 4))}, ShapeError, r"\(1, 3, 8, 4\).*\(3, 8, 8\)"),
        ("input", {"channels": (0, 3)}, ShapeError, "channels 0 … 2"),
        ("input", {"region": (4, 0, 5, 8)}, ShapeError, r"\(4, 0, 5, 8\).*\(3, 8, 8\)"),
    ],
)
def test_misfits_are_refused_on_entry_and_leave_no_hook(
    layer: str, options: dict[str, Any], error: type[Exception], named: str
) -> None:
    adapter = GaussianAdapter()
    item = Intervention(layer, **{"target": target(0.0), **options})
    with pytest.raises(error, match=named), InterventionSession(adapter, [item], ["denoised"]):
        pass
    assert hooks_left(adapter) == 0


def test_region_on_a_layer_of_tokens_is_refused() -> None:
    item = Intervention("tokens", target(0.0, (64, 4)), region=(0, 0, 1, 1))
    with pytest.raises(ShapeError, match="no image plane"), InterventionSession(SkipAdapter(), [item]):
        pass


def test_target_with_nan_is_refused_with_the_count() -> None:
    value = torch.ones(1, 4)
    value[0, :2] = float("nan")
    with pytest.raises(ConfigError, match="2 NaN or infinite values of 4"):
        FixedTarget(value)
    with pytest.raises(ShapeError, match="int64"):
        FixedTarget(torch.ones(1, 4, dtype=torch.int64))

    class NanLater:
        def at(self, sigma: float) -> Tensor:
            return torch.full((1, *SHAPE), float("inf"))

    adapter = GaussianAdapter()
    with (
        InterventionSession(adapter, [Intervention("input", NanLater())]) as session,
        pytest.raises(ConfigError, match="192 NaN or infinite"),
    ):
        run(adapter, session, own_output())


def test_natural_and_replaced_values_are_both_recorded_whoever_registered_first() -> None:
    adapter, x = GaussianAdapter(), own_output()
    items = [Intervention("input", target(2.0))]
    with InterventionSession(adapter, items, ["input", "denoised"]) as session:
        denoised = run(adapter, session, x)
        assert torch.equal(session.natural["input"], x)
        assert torch.equal(session.replaced["input"], torch.full_like(x, 2.0))
        assert torch.equal(session.natural["denoised"], denoised)
        assert set(session.replaced) == {"input"}
    assert torch.equal(denoised, gaussian_denoised(torch.full_like(x, 2.0), 1.0, 0.0))


def test_replaced_equals_natural_where_nothing_acted() -> None:
    adapter, x = GaussianAdapter(), own_output()
    with InterventionSession(adapter, [Intervention("input", target(2.0), steps=(0, 1))], ["input"]) as session:
        run(adapter, session, x, step=1)
        assert torch.equal(session.replaced["input"], x)
        assert torch.equal(session.natural["input"], x)


def test_several_interventions_on_one_layer_apply_in_order() -> None:
    adapter, x = GaussianAdapter(), own_output()
    items = [Intervention("denoised", target(2.0)), Intervention("denoised", target(1.0), "add", strength=3.0)]
    with InterventionSession(adapter, items) as session:
        assert hooks_left(adapter) == 1
        assert torch.equal(run(adapter, session, x), torch.full_like(x, 5.0))


@pytest.mark.parametrize("copy_skip", [False, True])
def test_mask_of_a_tuple_output_reaches_the_skip_the_later_layer_reads(copy_skip: bool) -> None:
    adapter = SkipAdapter(copy_skip)
    mask = Intervention("down", target(0.5, (4, 8, 8)))
    with InterventionSession(adapter, [mask]) as session:
        one, other = run(adapter, session, own_output()), run(adapter, session, own_output() * 3)
    # Everything after 'down' reads its result or its skip; none of the input may come through.
    assert torch.equal(one, other)


def test_one_row_serves_any_batch_and_survives_work_in_place() -> None:
    adapter = SkipAdapter()
    value = torch.randn(1, 64, 4, generator=torch.Generator().manual_seed(2))
    kept = value.clone()
    with InterventionSession(adapter, [Intervention("tokens", FixedTarget(value))], ["tokens"]) as session:
        for batch in (1, 3):
            run(adapter, session, own_output(batch))
            assert session.replaced["tokens"].shape == (batch, 64, 4)
    assert torch.equal(value, kept)


def test_hooks_go_when_the_model_fails_and_when_registration_does() -> None:
    adapter = GaussianAdapter()

    def evaluate_and_fail() -> None:
        with InterventionSession(adapter, [], ["input"]) as session, session.evaluation(0, 1.0):
            assert hooks_left(adapter) == 1
            adapter.forward(torch.zeros(2, 3, 8, 8), torch.ones(3))

    with pytest.raises(RuntimeError, match="size of tensor"):
        evaluate_and_fail()
    assert hooks_left(adapter) == 0

    class FailsOnDenoised(GaussianAdapter):
        def register_activation_hooks(self, layer_names: list[str], hook_fn: Any) -> Any:
            if "input" in layer_names:
                raise OSError("half-way")
            return super().register_activation_hooks(layer_names, hook_fn)

    failing = FailsOnDenoised()
    with pytest.raises(OSError, match="half-way"), InterventionSession(failing, [], ["denoised", "input"]):
        pass
    assert hooks_left(failing) == 0


def test_sessions_on_one_adapter_leave_each_other_alone() -> None:
    adapter, x = GaussianAdapter(), own_output()
    with (
        InterventionSession(adapter, [Intervention("input", target(2.0))], ["input"]) as first,
        InterventionSession(adapter, [Intervention("input", target(-1.0))], ["input"]) as second,
    ):
        by_first, by_second = run(adapter, first, x), run(adapter, second, 3 * x)
        outside = adapter.forward(x, torch.ones(2))
    assert torch.equal(by_first, gaussian_denoised(torch.full_like(x, 2.0), 1.0, 0.0))
    assert torch.equal(by_second, gaussian_denoised(torch.full_like(x, -1.0), 1.0, 0.0))
    assert torch.equal(outside, gaussian_denoised(x, 1.0, 0.0))
    assert torch.equal(first.natural["input"], x)
    assert torch.equal(second.natural["input"], 3 * x)
    assert (first.replaced["input"] == 2.0).all()


def test_session_is_entered_once() -> None:
    adapter = GaussianAdapter()
    with InterventionSession(adapter, [], ["input"]) as session:
        with pytest.raises(ConfigError, match="entered already"):
            session.__enter__()
        assert hooks_left(adapter) == 1
    assert hooks_left(adapter) == 0


def test_sessions_in_two_threads_do_not_mix() -> None:
    adapter, x = GaussianAdapter(), own_output()
    entered, finished = threading.Event(), threading.Event()
    seen: list[Tensor] = []

    def other() -> None:
        entered.wait(10)
        seen.append(adapter.forward(x, torch.ones(2)))
        finished.set()

    thread = threading.Thread(target=other)
    thread.start()
    with (
        InterventionSession(adapter, [Intervention("input", target(2.0))]) as session,
        session.evaluation(0, 1.0),
    ):
        entered.set()
        assert finished.wait(10)
    thread.join()
    assert torch.equal(seen[0], gaussian_denoised(x, 1.0, 0.0))


def test_extractor_sees_the_natural_value_only_if_registered_before_but_the_session_always_does() -> None:
    adapter, x = GaussianAdapter(), own_output()
    with (
        InterventionSession(adapter, [Intervention("input", target(2.0))], ["input"]) as session,
        ActivationExtractor(adapter, ["input"]),
    ):
        run(adapter, session, x)
        assert torch.equal(session.natural["input"], x)


def test_unreached_layer_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    class Silent(GaussianAdapter):
        def register_activation_hooks(self, layer_names: list[str], hook_fn: Any) -> Any:
            return []

    adapter = Silent()
    with caplog.at_level(logging.WARNING), InterventionSession(adapter, [], ["input"]) as session:
        run(adapter, session, own_output())
        run(adapter, session, own_output())
    assert caplog.text.count("'input' was not reached") == 1


def test_matched_target_is_captured_anew_at_each_sigma_from_the_same_samples() -> None:
    adapter, x0, ids = GaussianAdapter(), own_output(70), [f"s{i}" for i in range(70)]
    matched = MatchedTarget(adapter, "input", x0, ids)
    for sigma in (0.5, 20.0):
        expected = (x0 + sigma * sample_noise(ids, SHAPE)).mean(0, keepdim=True)
        torch.testing.assert_close(matched.at(sigma), expected, atol=1e-4, rtol=1e-4)
    calls = len(adapter.calls)
    matched.at(0.5)
    assert len(adapter.calls) == calls, "captured twice at one sigma"
    with pytest.raises(SelectionError, match="2 sample ids for 3 samples"):
        MatchedTarget(adapter, "input", own_output(3), ["a", "b"])


def test_matched_targets_of_several_layers_share_their_captures() -> None:
    adapter, x0 = GaussianAdapter(), own_output(2)
    targets = MatchedTarget.for_layers(adapter, ["input", "denoised"], x0, ["a", "b"])
    captured = capture(adapter, x0, ["a", "b"], {}, 3.0, ["input", "denoised"])
    calls = len(adapter.calls)
    for layer, matched in targets.items():
        torch.testing.assert_close(matched.at(3.0), captured[layer].mean(0, keepdim=True))
    assert len(adapter.calls) == calls + 1


def test_matched_target_may_capture_from_the_model_it_changes() -> None:
    adapter, x0 = GaussianAdapter(), own_output(2)
    matched = MatchedTarget(adapter, "input", x0, ["a", "b"])
    with InterventionSession(adapter, [Intervention("input", matched)], ["input"]) as session:
        with session.evaluation(0, 7.0):
            adapter.forward(own_output(1) * 9, torch.tensor([7.0]))
        expected = (x0 + 7.0 * sample_noise(["a", "b"], SHAPE)).mean(0, keepdim=True)
        torch.testing.assert_close(session.replaced["input"], expected)


def test_direction_is_selected_minus_reference() -> None:
    direction = DirectionTarget(target(3.0), target(1.0))
    assert torch.equal(direction.at(1.0), torch.full((1, *SHAPE), 2.0))
