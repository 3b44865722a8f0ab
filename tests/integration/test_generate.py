"""Masked generation end to end: the right samples are averaged, the pair shares its noise, the run says it all."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from diffviews.adapters.registry import load_adapter
from diffviews.core.extractor import capture, mean_activations
from diffviews.core.generator import GenerationRequest
from diffviews.core.generator import generate as sample
from diffviews.core.interventions import FixedTarget, Intervention
from diffviews.errors import (
    CancelledError,
    ConfigError,
    CorruptDataError,
    RunNotFoundError,
    SelectionError,
    ShapeError,
)
from diffviews.pipelines.generate import generate
from diffviews.pipelines.replay import ReplayError, compare, replay
from diffviews.pipelines.workspace import open_workspace
from diffviews.processing.map_parameters import MapParameters
from diffviews.recipes import GenerationRecipe, Sampling
from diffviews.recipes.options import build
from tests.jobs import embed

STEPS = 6


@pytest.fixture
def threes(workspace, layer_run):
    """Ids of five threes, in an order that is not that of the sample set."""
    return workspace.samples_of(layer_run).of_classes([3]).sample_ids[4::-1]


@pytest.fixture
def run(workspace, adapter):
    """Generate with the loaded model, two images in few steps unless said otherwise."""

    def generate_now(callback=None, **fields):
        recipe = build(GenerationRecipe, {"num_samples": 2, "num_steps": STEPS, "seed": 7, **fields})
        return generate(recipe, workspace, adapter=adapter, callback=callback)

    return generate_now


@pytest.fixture
def masked(run, layer_run, threes):
    def generate_masked(**fields):
        return run(layer_run=layer_run.run_id, sample_ids=threes, **fields)

    return generate_masked


def own_mean(workspace, adapter, layer_run, ids):
    """Return the mean activation of samples by a fresh forward pass over their images, (1, C, H, W)."""
    samples = workspace.samples_of(layer_run)
    x0 = adapter.encode(samples.images_of(ids))
    captured = capture(adapter, x0, ids, {}, layer_run.sigma, [layer_run.layer])
    return captured[layer_run.layer].mean(dim=0, keepdim=True)


def grey_levels_apart(images, others):
    return int(np.abs(images.astype(int) - others.astype(int)).max())


def test_baseline_is_the_same_generation_without_the_mask(run, masked):
    pair, plain = masked().result, run().result
    assert np.array_equal(pair.baseline_images, plain.images)
    assert grey_levels_apart(pair.images, plain.images) > 50
    difference = np.abs(pair.images.astype(int) - pair.baseline_images)
    assert np.array_equal(pair.difference_images, difference)


def test_mask_is_the_mean_of_the_chosen_samples_whatever_their_order(workspace, adapter, layer_run, masked, threes):
    mean = own_mean(workspace, adapter, layer_run, threes)
    outcome = masked()
    replaced = outcome.result.replaced[layer_run.layer]
    assert np.allclose(replaced, mean.numpy(), atol=1e-2)
    request = GenerationRequest(
        class_labels=-1, num_samples=2, seed=7, num_steps=STEPS,
        interventions=(Intervention(layer_run.layer, FixedTarget(torch.from_numpy(replaced[0, :1].copy()))),),
    )  # fmt: skip
    assert np.array_equal(sample(adapter, request).images, outcome.result.images)


def test_samples_of_a_filtered_table_are_found_by_id(workspace, adapter, layer_run, run):
    samples = workspace.samples_of(layer_run)
    sevens = samples.of_classes([7])
    position_in_filter = 2
    chosen = (sevens.sample_ids[position_in_filter],)
    replaced = run(layer_run=layer_run.run_id, sample_ids=chosen).result.replaced[layer_run.layer][0, 0]
    own = own_mean(workspace, adapter, layer_run, chosen).numpy()[0]
    wrong = own_mean(workspace, adapter, layer_run, (samples.sample_ids[position_in_filter],)).numpy()[0]
    assert np.allclose(replaced, own, atol=1e-2)
    assert not np.allclose(replaced, wrong, atol=0.5)


def test_class_zero_is_a_class(workspace, run):
    outcome = run(class_label=0)
    assert outcome.result.labels.tolist() == [0, 0]
    record = workspace.catalog.generation(outcome.run_id)
    assert record.params["class_label"] == "0"
    assert record.name == "class 0, seed 7, samples 0–1"
    for other in (-1, None, 1):
        assert not np.array_equal(run(class_label=other).result.images, outcome.result.images)


def test_uniform_and_random_labels_are_told_apart(workspace, run):
    uniform, random = run(class_label=-1), run(class_label=None, num_samples=12)
    assert uniform.result.labels.tolist() == [-1, -1]
    assert set(random.result.labels) <= set(range(10))
    assert len(set(random.result.labels)) > 2
    names = [workspace.catalog.generation(outcome.run_id).name for outcome in (uniform, random)]
    assert names == ["uniform label, seed 7, samples 0–1", "random classes, seed 7, samples 0–11"]


def test_add_steers_by_the_difference_from_the_mean_of_all(workspace, layer_run, masked, threes):
    result = masked(mode="add", strength=1.5).result
    reader = workspace.activations(layer_run)
    direction = reader.rows(threes).mean(axis=0, dtype=np.float32) - reader.array().mean(axis=0, dtype=np.float64)
    natural, replaced = result.trajectory[layer_run.layer], result.replaced[layer_run.layer]
    assert np.allclose(replaced, natural + 1.5 * direction, atol=1e-3)


def test_interpolation_ends_at_the_baseline_and_at_the_replacement(masked):
    none, whole = masked(mode="interpolate", strength=0.0).result, masked(mode="interpolate", strength=1.0).result
    assert grey_levels_apart(none.images, none.baseline_images) <= 1
    assert grey_levels_apart(whole.images, masked().result.images) <= 1


def test_interpolation_lies_between(layer_run, masked):
    result = masked(mode="interpolate", strength=0.25).result
    target = masked().result.replaced[layer_run.layer][0, 0]
    natural, replaced = result.trajectory[layer_run.layer], result.replaced[layer_run.layer]
    assert np.allclose(replaced, 0.75 * natural + 0.25 * target, atol=1e-3)


def test_matched_target_is_captured_anew_at_each_step(workspace, adapter, layer_run, masked, threes):
    result = masked(target="matched").result
    replaced = result.replaced[layer_run.layer]
    x0 = adapter.encode(workspace.samples_of(layer_run).images_of(threes))
    for step, sigma in enumerate(result.sigmas):
        own = mean_activations(adapter, x0, threes, {}, float(sigma), [layer_run.layer])[layer_run.layer]
        assert np.allclose(replaced[step], own.numpy(), atol=1e-4)
    assert not np.allclose(replaced[0], replaced[-1], atol=0.1)


def test_matched_target_at_the_sigma_of_the_layer_run_is_the_fixed_one(layer_run, masked):
    once = {"sampler": "euler", "num_steps": 1, "sigma_max": layer_run.sigma, "sigma_min": layer_run.sigma}
    matched, fixed = masked(target="matched", **once).result, masked(**once).result
    assert matched.sigmas.tolist() == [layer_run.sigma]
    assert np.allclose(matched.replaced[layer_run.layer], fixed.replaced[layer_run.layer], atol=1e-2)
    assert grey_levels_apart(matched.images, fixed.images) <= 1


def test_several_layers_are_masked_at_once(workspace, adapter, layer_run, masked, threes):
    half = {"mode": "interpolate", "strength": 0.5}
    both = masked(layers=("encoder_bottleneck", "decoder_block_4"), **half).result
    records = [r for r in workspace.catalog.layers(layer_run.parent_id) if r.sigma == 2.0]
    means = [workspace.activations(r).rows(threes).mean(axis=0, keepdims=True, dtype=np.float32) for r in records]
    masks = tuple(
        Intervention(r.layer, FixedTarget(torch.from_numpy(mean)), **half)
        for r, mean in zip(records, means, strict=True)
    )
    request = GenerationRequest(class_labels=-1, num_samples=2, seed=7, num_steps=STEPS, interventions=masks)
    assert np.array_equal(both.images, sample(adapter, request).images)
    for record in records:
        assert grey_levels_apart(both.images, masked(layers=(record.layer,), **half).result.images) > 20


def test_run_names_the_layers_that_are_masked_and_not_the_one_of_the_map(workspace, layer_run, masked, monkeypatch):
    monkeypatch.setenv("DIFFVIEWS_DASHBOARD_URL", "http://views.example:5006/app")
    both = ("encoder_bottleneck", "decoder_block_4")
    for layers, told in (((), "decoder_block_4"), (both[:1], both[0]), (both, "encoder_bottleneck + decoder_block_4")):
        made = masked(layers=layers, mode="add", region=(0, 0, 2, 2), num_samples=2, seed=0)
        run = workspace.catalog.connection.call(lambda client, run_id=made.run_id: client.get_run(run_id))
        names = layers or ("decoder_block_4",)
        assert run.info.run_name == f"three → {told}, add 1.0, part 2×2, seeds 0–1"
        assert run.data.tags["diffviews.layer"] == run.data.params["layers"] == ",".join(names)
        assert run.data.tags["diffviews.map_layer"] == run.data.params["map_layer"] == "decoder_block_4"
        assert run.data.params["averaged"] == "three"
        note = run.data.tags["mlflow.note.content"]
        assert all(f"`{layer}`" in note for layer in names)
        assert made.recipe.command() in note
        assert note.endswith(f"(http://views.example:5006/app?run={made.run_id})")


def test_layer_runs_hold_layer_and_sigma_and_what_they_share_is_their_parents(workspace, layer_run):
    read = workspace.catalog.connection.call
    child, parent = (read(lambda client, r=r: client.get_run(r)) for r in (layer_run.run_id, layer_run.parent_id))
    assert child.data.params == {"layer": "decoder_block_4", "sigma": "2"}
    assert parent.data.params["conditioning"] == layer_run.params["conditioning"] == "none"
    for run, told in ((child, "--layers='[\"decoder_block_4\"]'"), (parent, "2 layers of `edm-digits` at σ 0.5,2")):
        assert told in run.data.tags["mlflow.note.content"].replace("'--layers=[", "--layers='[")
        assert "diffviews extract" in run.data.tags["mlflow.note.content"]


def test_drawn_seed_is_the_same_in_every_record(workspace, run):
    made = run(seed=None)
    record = workspace.catalog.generation(made.run_id)
    assert record.params["seed"] == str(made.result.seed)
    assert f"seed {made.result.seed}," in record.name


def test_only_samples_at_the_sigma_of_the_layer_run_are_averaged(workspace, adapter, layer_run, run, threes):
    siblings = workspace.catalog.layers(layer_run.parent_id)
    lower = next(record for record in siblings if (record.layer, record.sigma) == (layer_run.layer, 0.5))
    for record in (lower, layer_run):
        result = run(layer_run=record.run_id, sample_ids=threes, layers=(layer_run.layer,)).result
        mean = own_mean(workspace, adapter, record, threes).numpy()
        assert np.allclose(result.replaced[layer_run.layer], mean, atol=1e-2)
    assert not np.allclose(mean, own_mean(workspace, adapter, lower, threes).numpy(), atol=0.5)


def test_layer_that_was_not_extracted_is_refused(masked):
    with pytest.raises(RunNotFoundError, match="no layer 'midblock' at sigma 2; it has encoder_bottleneck"):
        masked(layers=("midblock",))


@pytest.mark.parametrize(
    ("fields", "steps"),
    [({}, range(6)), ({"mask_steps": 2}, range(2)), ({"window": (3, 5)}, range(3, 5))],
)
def test_mask_acts_in_its_steps_only(layer_run, masked, fields, steps):
    result = masked(**fields).result
    natural, replaced = result.trajectory[layer_run.layer], result.replaced[layer_run.layer]
    changed = [step for step in range(STEPS) if not np.array_equal(natural[step], replaced[step])]
    assert changed == list(steps)


def test_mask_steps_beyond_the_sampler_mask_all(masked):
    assert np.array_equal(masked(mask_steps=99).result.images, masked().result.images)


def test_unknown_sample_is_named_and_the_run_failed_with_the_reason(workspace, layer_run, run):
    with pytest.raises(SelectionError, match="digits-9999"):
        run(layer_run=layer_run.run_id, sample_ids=("digits-0000", "digits-9999"))
    newest = workspace.catalog.generations(layer_run.run_id, unfinished=True)[0]
    assert newest.status == "FAILED"
    assert "digits-9999" in newest.error


def test_empty_selection_masks_nothing_and_still_draws_the_path(run, layer_run):
    outcome = run(layer_run=layer_run.run_id)
    assert outcome.result.baseline_images is None
    assert set(outcome.path["variant"]) == {"masked"}
    assert np.array_equal(outcome.result.images, run().result.images)


def test_layers_without_samples_are_refused(run, layer_run):
    with pytest.raises(ConfigError, match="without sample_ids"):
        run(layer_run=layer_run.run_id, layers=("decoder_block_4",))


def test_run_that_is_no_layer_run_is_refused(run, layer_run):
    with pytest.raises(RunNotFoundError, match="of kind extract, not layer"):
        run(layer_run=layer_run.parent_id, sample_ids=("digits-0000",))
    with pytest.raises(RunNotFoundError):
        run(layer_run="0" * 32, sample_ids=("digits-0000",))


@pytest.mark.parametrize("selected", [(), ("digits-0000",)])
def test_other_weights_than_those_extracted_are_refused(tmp_path, workspace, adapter, layer_run, selected):
    weights = {name: tensor.clone() for name, tensor in adapter.model.state_dict().items()}
    weights["model.enc.16x16_conv.weight"] *= 1.01
    config = {key: value for key, value in adapter.config.items() if key not in ("sigma_min", "sigma_max")}
    path = tmp_path / "other.safetensors"
    save_file(weights, path, metadata={"config": json.dumps(config)})
    recipe = GenerationRecipe(
        checkpoint=str(path), layer_run=layer_run.run_id, sample_ids=selected, sampling=Sampling(num_steps=2)
    )
    with pytest.raises(ShapeError, match="captured from other weights"):
        generate(recipe, workspace, device="cpu")


def test_path_places_each_step_of_both_runs_on_the_map(workspace, layer_run, masked):
    outcome = masked()
    path, result = outcome.path, outcome.result
    assert len(path) == STEPS * 2 * 2
    (projector,) = workspace.projectors(layer_run.run_id).values()
    for variant, activations in (("masked", result.trajectory), ("baseline", result.baseline_trajectory)):
        last = path[(path["variant"] == variant) & (path["step"] == STEPS - 1)]
        placed = projector.transform(activations[layer_run.layer][-1])
        assert last["sample"].tolist() == [0, 1]
        assert np.allclose(last[["x", "y"]], placed.coordinates, atol=1e-5)
        assert np.allclose(last["distance"], placed.distance, rtol=1e-5)
    steps = path[(path["variant"] == "baseline") & (path["sample"] == 0)]
    assert np.allclose(steps["sigma"], result.sigmas)
    assert np.isfinite(path[["x", "y", "distance"]].to_numpy()).all()
    assert path[["distance_percentile", "residual_percentile"]].stack().between(0, 100).all()


def test_map_of_another_layer_is_refused(workspace, layer_run, masked):
    other = next(r for r in workspace.catalog.layers(layer_run.parent_id) if r.layer == "encoder_bottleneck")
    embedded = embed(other.run_id, MapParameters(n_neighbors=8), workspace)
    with pytest.raises(ConfigError, match="of layer 'encoder_bottleneck', not of 'decoder_block_4'"):
        masked(map_run=embedded.run_id)


def test_run_holds_recipe_images_steps_path_and_manifest(workspace, layer_run, masked):
    outcome = masked(seed=None)
    result, folder = outcome.result, workspace.folder(outcome.run_id)
    folder.verify()
    kinds = ("images", "baseline", "difference")
    pictures = {f"{kind}/{index:03d}.png" for kind in kinds for index in range(2)}
    assert set(folder.names()) == pictures | {"recipe.json", "steps.npz", "path.parquet"}
    for name, images in (("images", result.images), ("baseline", result.baseline_images)):
        for index in range(2):
            assert np.array_equal(np.asarray(Image.open(folder.path(f"{name}/{index:03d}.png"))), images[index])
    with np.load(folder.path("steps.npz"), allow_pickle=False) as steps:
        assert steps["intermediates"].shape == steps["noised_inputs"].shape == (STEPS, 2, 16, 16, 3)
        assert np.array_equal(steps["sigmas"], result.sigmas)
    recipe = GenerationRecipe.from_json(folder.path("recipe.json").read_text())
    assert recipe == outcome.recipe
    assert recipe.seed == result.seed is not None
    pd.testing.assert_frame_equal(pd.read_parquet(folder.path("path.parquet")), outcome.path)
    record = workspace.catalog.generation(outcome.run_id)
    assert (record.layer, record.sigma, record.source_run) == ("decoder_block_4", 2.0, layer_run.run_id)
    assert record.metrics["mean_difference"] == pytest.approx(result.difference_images.mean())


def test_cancelled_generation_ends_killed_and_leaves_nothing_behind(workspace, adapter, layer_run, run, masked):
    before = run().result.images
    listed = len(workspace.catalog.generations(layer_run.run_id))

    def cancel(progress):
        if progress.step == 3:
            raise CancelledError("cancelled after step 3")

    with pytest.raises(CancelledError):
        masked(callback=cancel)
    newest = workspace.catalog.generations(layer_run.run_id, unfinished=True)[0]
    assert (newest.status, newest.error) == ("KILLED", "cancelled after step 3")
    assert len(workspace.catalog.generations(layer_run.run_id)) == listed
    assert np.array_equal(run().result.images, before)


def test_progress_counts_the_steps_of_both_runs(masked):
    seen = []
    masked(callback=seen.append)
    assert [progress.step for progress in seen] == list(range(1, 2 * STEPS + 1))
    assert {progress.total for progress in seen} == {2 * STEPS}


def test_replay_repeats_within_a_grey_level_and_notices_a_changed_image(workspace, masked):
    outcome = masked(target="matched", class_label=0)
    repeated = replay(outcome.run_id, open_workspace(), device="cpu")
    assert repeated.num_images == 2
    assert repeated.largest_difference <= 1
    other = outcome.result.images.copy()
    other[1, 3, 4, 1] ^= 8
    with pytest.raises(ReplayError, match="by up to 8 grey levels"):
        compare(outcome.run_id, workspace, other)
    Image.fromarray(other[1]).save(workspace.folder(outcome.run_id).path("images/001.png"))
    with pytest.raises(CorruptDataError, match=r"images/001\.png differs from the manifest"):
        replay(outcome.run_id, open_workspace(), device="cpu")


def test_replay_of_what_is_no_generation_says_so(layer_run):
    with pytest.raises(RunNotFoundError, match="of kind layer, not generation"):
        replay(layer_run.run_id, open_workspace())
    with pytest.raises(RunNotFoundError):
        replay("f" * 32, open_workspace())


def test_command_generates_from_flags(store, layer_run, threes, capsys):
    from diffviews.cli import main

    words = ["--layer-run", layer_run.run_id, "--sample-ids", ",".join(threes), "--num-steps", "2", "--device", "cpu"]
    with pytest.raises(SystemExit) as stop:
        main(["generate", *words])
    assert stop.value.code == 0
    assert "1 images, seed 0" in capsys.readouterr().out


def test_generation_leaves_global_random_state_alone(masked):
    before = torch.get_rng_state()
    masked(seed=None)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()


def test_two_dashboards_on_one_store_do_not_disturb_one_another(store, layer_run, threes):
    def visit(seed):
        own, model = open_workspace(), load_adapter("edm-digits", device="cpu")
        sampling = Sampling(num_steps=3)
        recipe = GenerationRecipe(layer_run=layer_run.run_id, sample_ids=threes, sampling=sampling, seed=seed)
        return [generate(recipe, own, adapter=model) for _ in range(3)]

    with ThreadPoolExecutor(2) as pool:
        visits = list(pool.map(visit, (1, 2)))
    for seed, outcomes in zip((1, 2), visits, strict=True):
        alone = visit(seed)[0].result
        for outcome in outcomes:
            assert np.array_equal(outcome.result.images, alone.images)
            open_workspace().folder(outcome.run_id).verify()
            assert open_workspace().catalog.generation(outcome.run_id).is_finished


def test_judge_says_which_images_are_as_asked_and_as_without_the_mask(workspace, run, masked):
    judged = masked(judge="svc", class_label=3, num_samples=4)
    record = workspace.catalog.generation(judged.run_id)
    table = pd.read_csv(workspace.folder(judged.run_id).path("verdicts.csv"))
    assert list(table["kind"]) == ["images"] * 4 + ["baseline"] * 4
    assert "class as asked: " in str(judged)
    for kind, key in (("images", "class_as_asked"), ("baseline", "baseline_class_as_asked")):
        assert record.metrics[key] == np.mean(table.loc[table["kind"] == kind, "label"] == 3)
    with pytest.raises(ConfigError, match="is fitted on the samples of a layer run"):
        run(judge="svc")
