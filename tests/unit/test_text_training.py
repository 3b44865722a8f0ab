"""Training of a pipeline with text: its tokens, its losses, that it goes on where it stopped, and that it opens."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("diffusers")

from diffviews.adapters.registry import load_adapter
from diffviews.core.generator import GenerationRequest, generate
from diffviews.data.shapes.captions import words
from diffviews.data.sources import open_source
from diffviews.errors import ConfigError, ShapeError
from diffviews.lightning import text_training
from diffviews.lightning.text_training import TextTraining, VAETraining, build_parts, token_ids, train_pipeline
from diffviews.lightning.text_training_config import TextTrainingConfig
from diffviews.lightning.word_tokenizer import merge_words, word_tokenizer

TINY = TextTrainingConfig(
    img_resolution=16, kl_weight=0.1, vae_channels=(8, 8), latent_channels=3, vae_steps=3, vae_batch_size=4,
    text_width=16, text_layers=1, text_length=28, unet_channels=(16,), head_width=8,
    batch_size=4, steps=4, warmup_steps=1,
)  # fmt: skip
SHAPES = open_source("shapes:12", resolution=16)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(config: TextTrainingConfig = TINY, **options: object):
    return train_pipeline(SHAPES.images, SHAPES.prompts, config, device="cpu", **options)


def tensors(parts) -> dict[str, torch.Tensor]:
    named = {"vae": parts.vae, "text": parts.text_encoder, "unet": parts.unet}
    return {f"{part}.{name}": t for part, network in named.items() for name, t in network.state_dict().items()}


def test_every_word_of_the_captions_is_one_token() -> None:
    tokenizer = word_tokenizer([" ".join(words()), "on, white"], 32)
    ids = [tokenizer(word).input_ids for word in [*words(), ","]]
    assert all(len(tokens) == 3 for tokens in ids)
    assert len({tokens[1] for tokens in ids}) == len(ids)
    assert len(tokenizer("an elephant").input_ids) > 4, "other words fall into letters"
    (padded,) = token_ids(tokenizer, ["a red circle"])
    assert padded.tolist()[4:] == [tokenizer.eos_token_id] * 28


@given(st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_merges_make_whole_words_whatever_these_are(given_words: list[str]) -> None:
    vocabulary, merges = merge_words(given_words)
    assert merge_words(reversed(given_words)) == (vocabulary, merges)
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    for word in given_words:  # as CLIP's tokenizer encodes
        parts = [*word[:-1], word[-1] + "</w>"]
        while pairs := [pair for pair in pairwise(parts) if pair in ranks]:
            best, joined = min(pairs, key=ranks.__getitem__), []
            for part in parts:
                if joined and (joined[-1], part) == best:
                    joined[-1] += part
                else:
                    joined.append(part)
            parts = joined
        assert parts == [f"{word}</w>"]
        assert parts[0] in vocabulary


def test_losses_are_those_of_their_closed_forms() -> None:
    """The mean square of the target is 1: of epsilon, and of v where latents have scale 1; the U-Net returns 0."""
    parts = build_parts(SHAPES.prompts, TINY)
    x0 = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    tokens = token_ids(parts.tokenizer, SHAPES.prompts).repeat(6, 1)[:64]
    with torch.no_grad():
        latents = parts.vae.encode(x0).latent_dist.mode()
        latents /= latents.square().mean().sqrt()
        torch.nn.init.zeros_(parts.unet.conv_out.weight)
        torch.nn.init.zeros_(parts.unet.conv_out.bias)
        for kind in ("epsilon", "v_prediction"):
            module = TextTraining(parts, SHAPES.prompts, replace(TINY, prediction_type=kind))
            assert float(module.step_loss((latents, tokens), 0)) == pytest.approx(1, abs=0.03)
        silent = VAETraining(parts.vae, TINY)
        parts.vae.decode = lambda latents: type("Decoded", (), {"sample": x0 + 0.25})
        posterior = parts.vae.encode(x0).latent_dist
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        assert float(silent.step_loss((x0, None), 0)) == pytest.approx(
            0.25 + TINY.square_weight * 0.25**2 + TINY.kl_weight * float(kl), rel=1e-4
        )


@pytest.mark.parametrize("dropout", [0.0, 0.4, 1.0])
def test_captions_are_withheld_at_the_asked_rate(dropout: float) -> None:
    parts = build_parts(SHAPES.prompts, TINY)
    module = TextTraining(parts, SHAPES.prompts, replace(TINY, caption_dropout=dropout))
    tokens = token_ids(parts.tokenizer, SHAPES.prompts).repeat(40, 1)
    seen: list[torch.Tensor] = []

    class Text(torch.nn.Module):
        def forward(self, given: torch.Tensor) -> tuple[torch.Tensor]:
            seen.append(given)
            return (torch.zeros(len(given), 28, 16),)

    module.networks["text_encoder"] = Text()
    with torch.no_grad():
        module.step_loss((torch.zeros(len(tokens), 3, 8, 8), tokens), 0)
    empty = (seen[0] == token_ids(parts.tokenizer, [""])[0]).all(dim=1)
    assert float(empty.float().mean()) == pytest.approx(dropout, abs=0.06)
    assert torch.equal(seen[0][~empty], tokens[~empty].long())


@pytest.mark.parametrize(("phase", "stopped_at"), [("vae_loss", 2), ("loss", 1), ("loss", 4)])
def test_interrupted_training_goes_on_to_the_weights_of_one_that_was_not(tmp_path, phase, stopped_at) -> None:
    def stop(step: int, values: dict[str, float]) -> None:
        if step == stopped_at and phase in values:
            raise KeyboardInterrupt

    options = {"state": tmp_path, "save_every": 1, "metrics_every": 1}
    with pytest.raises(KeyboardInterrupt):
        train(on_metrics=stop, **options)
    told: list[tuple[int, str]] = []
    resumed = tensors(train(on_metrics=lambda step, values: told.append((step, min(values))), **options))
    whole = tensors(train())
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert told[0] == (stopped_at, "vae_learning_rate" if phase == "vae_loss" else "learning_rate")


def test_a_saved_pipeline_opens_by_the_adapter_and_draws_prompts(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(text_training, "GRID", 2)
    config = replace(TINY, unet_channels=(16, 16))
    grids: list[np.ndarray] = []
    parts = train(config, on_grid=lambda step, images: grids.append(images), grid_every=100)
    parts.save(tmp_path / "folder")
    adapter = load_adapter("sd-v1.5", checkpoint=tmp_path / "folder", device="cpu")
    assert (adapter.resolution, adapter.label_dropout) == (16, 0.1)
    assert adapter.get_layer_shapes()["mid_block"] == (16, 4, 4)
    request = GenerationRequest(prompts="a red circle", num_samples=2, seed=1, num_steps=3, guidance_scale=3.0)
    assert generate(adapter, request).images.shape == (2, 16, 16, 3)
    assert grids[0].shape == (8, 16, 16, 3)
    stored = tensors(parts)
    for part, network in (("vae", adapter.vae), ("unet", adapter.unet), ("text", adapter.prompts.encoders[0])):
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(tensor, stored[f"{part}.{name}"].half().float(), rtol=0, atol=0)
    scheduler = json.loads((tmp_path / "folder/scheduler/scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == "v_prediction"
    assert float(adapter.encode(SHAPES.images).square().mean().sqrt()) == pytest.approx(1, abs=0.01)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"give \(12, 32, 32, 3\) uint8"):
        train(replace(TINY, img_resolution=32))
    with pytest.raises(ConfigError, match="5,000"):
        word_tokenizer([f"{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i // 676)}" for i in range(5001)], 8)
    for wrong, named in (
        ({"img_resolution": 18}, "img_resolution 18"), ({"unet_channels": (20,)}, "unet_channels"),
        ({"vae_steps": 1}, "vae_steps 1"), ({"caption_dropout": 1.5}, "caption_dropout 1.5"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=named):
            replace(TINY, **{"vae_channels": (8, 8, 8), **wrong})
