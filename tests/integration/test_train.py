"""The training job on few samples and steps: what it logs, that its weights load, and that it repeats itself."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file

from diffviews.adapters.registry import load_adapter
from diffviews.data.samples import SampleSet
from diffviews.data.sources import open_source
from diffviews.errors import CancelledError, ConfigError
from diffviews.lightning import text_training
from diffviews.lightning.text_training_config import TextTrainingConfig
from diffviews.lightning.training_config import TrainingConfig
from diffviews.pipelines import train as training
from diffviews.pipelines.train import train
from diffviews.pipelines.workspace import open_workspace
from tests.jobs import metric_series

TINY = TrainingConfig(model_channels=16, channel_mult=(1, 2), attn_resolutions=(8,), batch_size=16, steps=20,
                      warmup_steps=5)  # fmt: skip


@pytest.fixture(scope="module")
def few_digits(store):
    path = store / "few.parquet"
    open_source("digits", max_samples=60).write_parquet(path)
    return f"parquet:{path}"


@pytest.fixture(scope="module")
def trained(store, few_digits):
    return train(TINY, few_digits, "first.safetensors", eval_samples=20, device="cpu")


def test_training_logs_a_loss_series_and_a_grid_of_samples(trained):
    workspace = open_workspace()
    (record,) = [run for run in workspace.catalog.runs("train") if run.run_id == trained.run_id]
    series = metric_series(workspace, trained.run_id, "loss")
    assert series[-1][0] == TINY.steps
    assert all(np.isfinite(value) for _, value in series)
    assert record.metrics["class_accuracy"] == trained.class_accuracy
    assert record.params["model_channels"] == "16"
    pictures = workspace.catalog.connection.call(lambda client: client.list_artifacts(trained.run_id, "images"))
    assert [entry for entry in pictures if entry.path.startswith("images/samples")]
    folder = workspace.folder(trained.run_id)
    folder.verify()
    assert set(folder.names()) == {"weights.safetensors", "weights.json"}
    assert folder.path("weights.safetensors").read_bytes() == trained.checkpoint.read_bytes()
    assert json.loads(folder.path("weights.json").read_text())["training"]["steps"] == 20


def test_weights_load_as_an_adapter_of_the_trained_network(trained):
    adapter = load_adapter("edm-digits", checkpoint=trained.checkpoint, device="cpu")
    assert adapter.resolution == 16
    assert adapter.num_classes == 10
    assert adapter.label_dropout == pytest.approx(0.1)
    assert adapter.get_layer_shapes()["midblock"] == (32, 8, 8)


def test_same_config_gives_the_same_weights_and_another_seed_others(trained, few_digits, store):
    again = train(TINY, few_digits, "again.safetensors", eval_samples=20, device="cpu")
    other = TrainingConfig(**{**{f: getattr(TINY, f) for f in TINY.__dataclass_fields__}, "seed": 1})
    third = train(other, few_digits, "new/folder/other.safetensors", eval_samples=20, device="cpu")
    first, second, different = (load_file(outcome.checkpoint) for outcome in (trained, again, third))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert first.keys() == second.keys() == different.keys()
    assert not all(np.array_equal(first[name], different[name]) for name in first)
    assert again.class_accuracy == trained.class_accuracy


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"output": "weights.pkl"}, r"\.safetensors"), ({"eval_samples": 0}, "eval_samples is 0")],
)
def test_impossible_options_are_refused(store, few_digits, wrong, words):
    with pytest.raises(ConfigError, match=words):
        train(TINY, few_digits, **wrong)


def test_samples_without_classes_are_refused(store):
    digits = open_source("digits", max_samples=20)
    SampleSet.from_images(digits.images, digits.sample_ids).write_parquet(store / "unlabelled.parquet")
    with pytest.raises(ConfigError, match="without a class"):
        train(TINY, f"parquet:{store}/unlabelled.parquet", "never.safetensors")
    assert not (store / "never.safetensors").exists()


def test_nothing_stands_between_reading_the_images_and_the_first_step(store, few_digits, monkeypatch):
    """What takes time with the number of images (judging, comparing, decoding twice) waits for the training's end."""
    done = []
    for name in ("fit_svc", "measure_classes", "train_denoiser"):
        def refuse(*_, called=name, **__):
            done.append(called)
            raise CancelledError("enough")

        monkeypatch.setattr(f"diffviews.pipelines.train.{name}", refuse)
    with pytest.raises(CancelledError):
        train(TINY, few_digits, "never.safetensors", device="cpu")
    assert done == ["train_denoiser"]


def test_killed_training_is_resumed_in_its_run_and_ends_with_the_same_weights(trained, few_digits, store, monkeypatch):
    config = replace(TINY, seed=5)
    whole = train(config, few_digits, "whole.safetensors", eval_samples=20, device="cpu", experiment="whole")
    real = training.train_denoiser

    def stopped(*images, on_metrics, **options):
        def stop(step, values):
            on_metrics(step, values)
            if step == 12:
                raise KeyboardInterrupt

        return real(*images, on_metrics=stop, metrics_every=4, save_every=5, **options)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_denoiser", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(config, few_digits, "parts.safetensors", eval_samples=20, device="cpu")
    resumed = train(config, few_digits, "parts.safetensors", eval_samples=20, device="cpu", resume=True)
    (record,) = [r for r in open_workspace().catalog.runs("train", unfinished=True) if r.run_id == resumed.run_id]
    assert record.is_finished
    assert [step for step, _ in metric_series(open_workspace(), resumed.run_id, "loss")] == [4, 8, 12, 20]
    first, second = (load_file(made.checkpoint) for made in (whole, resumed))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_weights_are_for_the_adapter_that_is_named(store, few_digits):
    made = train(TINY, few_digits, "named.safetensors", adapter="edm-imagenet-64", eval_samples=20, device="cpu")
    record = next(r for r in open_workspace().catalog.runs("train") if r.run_id == made.run_id)
    assert record.model == "edm-imagenet-64"
    assert load_adapter("edm-imagenet-64", checkpoint=made.checkpoint, device="cpu").num_classes == 10
    with pytest.raises(ConfigError, match=r"'ddpm' does not read the networks that train makes; take .*edm-digits"):
        train(TINY, few_digits, adapter="ddpm")


def test_set_without_classes_trains_a_network_without_labels(store):
    digits = open_source("digits", max_samples=40, resolution=16)
    SampleSet.from_images(digits.images, digits.sample_ids).write_parquet(store / "plain.parquet")
    made = train(replace(TINY, label_dim=0), f"parquet:{store}/plain.parquet", "plain.safetensors", device="cpu")
    assert np.isnan(made.class_accuracy)
    assert load_adapter("edm-digits", checkpoint=made.checkpoint, device="cpu").num_classes == 0


def test_pipeline_with_text_is_trained_by_the_same_command(store, monkeypatch):
    pytest.importorskip("diffusers")
    monkeypatch.setattr(text_training, "GRID", 1)
    tiny = TextTrainingConfig(
        img_resolution=32, vae_channels=(8, 8, 8), vae_steps=2, vae_batch_size=4, text_width=16, text_layers=1,
        unet_channels=(16,), head_width=8, batch_size=4, steps=2, warmup_steps=1,
    )  # fmt: skip
    options = {"text": tiny, "adapter": "sd-v1.5", "eval_samples": 3, "device": "cpu"}
    made = train(dataset="shapes:12", output="tiny-sd", **options)
    record = json.loads((store / "tiny-sd.json").read_text())
    assert record["training"]["img_resolution"] == 32
    assert set(record["as_asked"]["one_object"]) == {"shape", "colour", "size", "place", "ground", "count"}
    assert load_adapter("sd-v1.5", checkpoint=made.checkpoint, device="cpu").resolution == 32
    names = set(open_workspace().folder(made.run_id).names())
    assert {"model/model_index.json", "model/unet/diffusion_pytorch_model.safetensors", "model.json"} <= names
    assert metric_series(open_workspace(), made.run_id, "vae_loss")[-1][0] == 2
    with pytest.raises(ConfigError, match="must be a folder"):
        train(dataset="shapes:12", output="tiny.safetensors", **options)
    with pytest.raises(ConfigError, match=r"1797 samples of 'digits' have no prompt"):
        train(dataset="digits", output="tiny-sd", **options)


@pytest.mark.slow
def test_two_processes_train_what_one_does_but_for_rounding(trained, few_digits, store, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = replace(TINY, batch_size=15)  # which two do not share evenly
    together = train(config, few_digits, "together.safetensors", eval_samples=20, device="cpu", devices=2)
    alone = train(config, few_digits, "alone.safetensors", eval_samples=20, device="cpu")
    of_two, of_one = (load_file(result.checkpoint) for result in (together, alone))
    for name, values in of_one.items():
        np.testing.assert_allclose(of_two[name], values, atol=2e-4, rtol=1e-3)
    assert json.loads(together.checkpoint.with_suffix(".json").read_text())["processes"] == 2
    series = [metric_series(open_workspace(), result.run_id, "loss") for result in (together, alone)]
    np.testing.assert_allclose(*map(np.array, series), rtol=1e-3)
