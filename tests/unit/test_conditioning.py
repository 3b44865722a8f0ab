"""Prompts, model schedules and samplers reach the model as asked, whatever the batch."""

import math

import numpy as np
import pytest
import torch

from diffviews.adapters import Condition
from diffviews.core import FixedTarget, GenerationRequest, Intervention, generate
from diffviews.errors import ConfigError
from diffviews.noise import NoiseSource
from tests.fakes import GaussianAdapter, TextAdapter


def asked(**options):
    return GenerationRequest(**{"num_samples": 3, "seed": 1, **options})


def test_each_sample_is_drawn_by_its_own_prompt_whatever_the_batch():
    prompts = ("", "aaaaa", "bbbbbbbbb")
    calm = {"num_steps": 4, "noise_mode": "zero", "guidance_scale": 1.0}
    whole = generate(TextAdapter(), asked(prompts=prompts, **calm))
    single = generate(TextAdapter(), asked(prompts=prompts, batch_size=1, **calm))
    assert np.array_equal(whole.images, single.images)
    means = whole.images.reshape(3, -1).mean(axis=1)
    assert means[0] < means[1] < means[2]


def test_last_estimate_has_the_prompts_closed_form():
    adapter = TextAdapter()
    generate(adapter, asked(prompts="aaaa", num_samples=1, num_steps=1))
    call = adapter.calls[0]
    assert call["prompt_embeds"].tolist() == [[4.0]]
    assert float(call["sigma"]) == 8.0


def test_negative_prompt_is_the_unconditional_pass():
    adapter = TextAdapter()
    request = asked(prompts="aaaa", negative_prompt=("x", "xx", "xxx"), num_steps=1, guidance_scale=3.0)
    result = generate(adapter, request)
    assert [call["prompt_embeds"].ravel().tolist() for call in adapter.calls] == [[4.0] * 3, [1.0, 2.0, 3.0]]
    x = NoiseSource(1, range(3)).normal((3, 8, 8)) * math.sqrt(65)
    share = 0.25 / (0.25 + 64)
    pull = lambda mean: mean + share * (x - mean)  # noqa: E731
    negative = torch.tensor([0.1, 0.2, 0.3]).reshape(-1, 1, 1, 1)
    expected = pull(negative) + 3 * (pull(0.4) - pull(negative))
    assert np.abs(adapter.decode(expected).astype(int) - result.images).max() <= 1


def test_guidance_one_or_no_prompt_costs_one_pass():
    adapter = TextAdapter()
    generate(adapter, asked(prompts="aaaa", guidance_scale=1.0))
    assert len(adapter.calls) == 2
    adapter.calls.clear()
    generate(adapter, asked(guidance_scale=7.5))
    assert [call["prompt_embeds"].ravel().tolist() for call in adapter.calls] == [[0.0] * 3] * 2


def test_prompt_is_refused_by_a_model_without_text():
    with pytest.raises(ConfigError, match="takes no prompts"):
        generate(GaussianAdapter(), asked(prompts="a cat"))
    with pytest.raises(ConfigError, match="needs a prompt"):
        asked(negative_prompt="blurry")
    with pytest.raises(ConfigError, match="2 prompts for 3 samples"):
        asked(prompts=("a", "b"))


def test_schedule_is_the_models_own_unless_karras_is_asked_for():
    adapter = TextAdapter()
    assert generate(adapter, asked(prompts="a")).sigmas.tolist() == [8.0, 4.0]
    assert generate(adapter, asked(prompts="a", num_steps=3, schedule="model")).sigmas.tolist() == [8.0, 4.0, 2.0]
    karras = generate(adapter, asked(prompts="a", num_steps=3, schedule="karras", sigma_max=8.0, sigma_min=2.0))
    assert karras.sigmas[[0, 2]].tolist() == [8.0, 2.0]
    assert karras.sigmas[1] != 4.0
    with pytest.raises(ConfigError, match="no schedule of its own"):
        generate(GaussianAdapter(), asked(schedule="model"))
    with pytest.raises(ConfigError, match="schedule 'linear' is not one of"):
        asked(schedule="linear")


def test_start_has_the_models_scale_and_the_sampler_is_the_models():
    adapter = TextAdapter()
    generate(adapter, asked(prompts="a"))
    start = NoiseSource(1, range(3)).normal((3, 8, 8)) * math.sqrt(65)
    torch.testing.assert_close(adapter.calls[0]["x"], start)
    assert len(adapter.calls) == 2  # Euler evaluates once a step, Heun twice
    adapter.calls.clear()
    generate(adapter, asked(prompts="a", sampler="heun"))
    assert len(adapter.calls) == 3  # its last step has no second evaluation


def test_span_of_a_request_carries_its_own_labels_prompts_and_noise():
    prompts, negative = tuple("abcdef"), tuple("uvwxyz")
    request = GenerationRequest(num_samples=6, seed=2, prompts=prompts, negative_prompt=negative, class_labels=None)
    part = request.span(2, 3)
    assert (part.first_index, part.num_samples) == (2, 3)
    assert (part.prompts, part.negative_prompt) == (("c", "d", "e"), ("w", "x", "y"))
    whole = generate(TextAdapter(), request)
    assert np.array_equal(generate(TextAdapter(), part).images, whole.images[2:5])


def test_mask_acts_on_the_pass_it_names():
    value = FixedTarget(torch.full((1, 3, 8, 8), 0.5))
    for passes, conditional, unconditional in (("conditional", 0.5, 0.0), ("unconditional", 0.8, 0.5)):
        adapter = TextAdapter()
        mask = Intervention("denoised", value, passes=passes)
        request = asked(
            prompts="a" * 8, num_steps=1, noise_mode="zero", guidance_scale=2.0, interventions=(mask,), baseline=False
        )
        result = generate(adapter, request)
        # With zero noise the estimate of an unmasked pass is 0.8 (or 0) but for the share of x, which is 0.
        shares = 1 - 0.25 / (0.25 + 64)
        by_pass = [shares * v if v in (0.8, 0.0) else v for v in (conditional, unconditional)]
        expected = by_pass[1] + 2 * (by_pass[0] - by_pass[1])
        assert np.abs(result.images.astype(int) - adapter.decode(torch.full((1, 3, 8, 8), expected))).max() <= 1


def test_alias_names_its_layer_in_every_hook():
    class Aliased(GaussianAdapter):
        @property
        def layer_aliases(self):
            return {"h_space": "denoised"}

        def register_activation_hooks(self, layer_names, hook_fn):
            return super().register_activation_hooks(
                [self.layer_aliases.get(name, name) for name in layer_names], hook_fn
            )

    mask = Intervention("h_space", FixedTarget(torch.zeros(1, 3, 8, 8)))
    result = generate(Aliased(), asked(class_labels=0, num_steps=2, sampler="renoise", interventions=(mask,)))
    assert (result.images == 128).all()
    with pytest.raises(LookupError, match="did you mean 'h_space'"):
        generate(Aliased(), asked(record_layers=("h_spaces",)))


def test_condition_of_a_class_model_is_its_labels():
    adapter = GaussianAdapter()
    given = adapter.condition([Condition(2), Condition(-1)])
    assert given["class_labels"].tolist() == [[0, 0, 1, 0], [0.25] * 4]
    assert adapter.uncondition([Condition(2)]) == {}


def test_overridden_defaults_are_taken_where_a_request_says_nothing():
    adapter = GaussianAdapter()
    adapter.override_defaults(sigma_max=40, default_steps=3, default_guidance=2.0, default_sampler="renoise")
    result = generate(adapter, asked(class_labels=1))
    assert (len(result.sigmas), result.sigmas[0], result.sigmas[-1]) == (3, 40.0, 0.002)
    assert len(adapter.calls) == 6  # two passes a step
    assert len(generate(adapter, asked(num_steps=2)).sigmas) == 2
    for wrong, words in (({"sigma_maks": 1}, "did you mean 'sigma_max'"), ({"default_steps": 0}, "at least 1")):
        with pytest.raises(ConfigError, match=words):
            adapter.override_defaults(**wrong)
    assert adapter.defaults.default_steps == 3
