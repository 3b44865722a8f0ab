"""Text models through the jobs: prompts become images, maps, masks and new images, by tiny saved pipelines."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from diffviews.data.samples import SampleSet
from diffviews.errors import CheckpointError, ConfigError
from diffviews.pipelines.generate import generate
from diffviews.pipelines.replay import replay
from diffviews.pipelines.workspace import open_workspace, samples_file
from diffviews.recipes import GenerationRecipe, Sampling
from tests import loras
from tests.diffusion_folders import draw_ddpm_pipeline, draw_sd_pipeline, draw_sdxl_pipeline, saved
from tests.integration.conftest import ROOT, inside
from tests.jobs import extract, generate_dataset, load_model

ANIMALS, BUILDINGS = ("dog", "cat", "cow", "hen"), ("house", "tower", "barn")
PROMPTS = [(f"a {colour} {thing}", "animal" if thing in ANIMALS else "building")
           for colour in ("red", "old", "big") for thing in (*ANIMALS, *BUILDINGS)]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny pipelines and a prompt file in a folder with a tracking store of its own."""
    with inside(tmp_path_factory.mktemp("text")) as place:
        saved(draw_sd_pipeline(1), place / "sd")
        saved(draw_sdxl_pipeline(2), place / "sdxl")
        saved(draw_ddpm_pipeline(3), place / "ddpm")
        rows = [f"{prompt},{'blurry' if kind == 'animal' else ''},{kind}" for prompt, kind in PROMPTS]
        (place / "prompts.csv").write_text("\n".join(["prompt,negative_prompt,category", *rows]) + "\n")
        (place / "few.txt").write_text("a red dog\n# a comment\na big house\n")
        yield place


@pytest.fixture(scope="module")
def extractions(folder):
    """An extraction of a prompt file, ordered twice; the result of each."""
    options = {"layers": ("h_space", "up_block_0"), "sigmas": (1.0,), "device": "cpu"}
    order = ("sd-v1.5", str(folder / "sd"), f"prompts:{folder}/prompts.csv")
    return [extract(*order, **options) for _ in range(2)]


@pytest.fixture(scope="module")
def workspace(folder, extractions):
    return open_workspace()


@pytest.fixture(scope="module")
def layer_run(workspace):
    (parent,) = workspace.catalog.extractions()
    return next(record for record in workspace.catalog.layers(parent.run_id) if record.layer == "mid_block")


def test_prompts_are_drawn_once_and_the_extraction_is_reused(workspace, extractions, layer_run):
    assert [result.reused for result in extractions] == [False, True]
    (images,) = workspace.catalog.runs("generate-dataset")
    assert images.metrics["num_samples"] == 21
    assert layer_run.params["conditioning"] == "prompt"
    assert {record.layer for record in workspace.catalog.layers(layer_run.parent_id)} == {"mid_block", "up_block_0"}


@pytest.mark.slow
def test_mlflow_run_extracts_from_prompts_and_is_reused(folder, tmp_path):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "PATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "-e", "extract", "--env-manager", "local"]
    options = ("model=sd-v1.5", f"checkpoint={folder}/sd", f"dataset=prompts:{folder}/prompts.csv",
               "layers=h_space,up_block_0", "sigmas=1")  # fmt: skip
    for option in options:
        command += ["-P", option]
    done = [
        subprocess.run(command, cwd=tmp_path, env=os.environ | own, capture_output=True, text=True) for _ in range(2)
    ]
    assert [process.returncode for process in done] == [0, 0], done[0].stdout + done[0].stderr
    assert "images of 21 prompts" in done[0].stderr
    assert "21 made now" in done[0].stderr
    assert "re-used" in done[1].stdout + done[1].stderr


def test_samples_carry_prompt_and_category_and_the_run_its_prompt_clusters(workspace, layer_run):
    samples = workspace.samples_of(layer_run)
    assert list(samples.prompts) == [prompt for prompt, _ in PROMPTS]
    assert samples.classes == {0: "animal", 1: "building"}
    assert samples.class_labels.tolist() == [int(kind == "building") for _, kind in PROMPTS]
    columns = pd.read_parquet(workspace.folder(layer_run.parent_id).path("columns.parquet"))
    assert list(columns["sample_id"]) == list(samples.sample_ids)
    assert columns["prompt_cluster"].str.match(r"\d+: \w+").all()
    assert "knn_accuracy_activation" not in layer_run.metrics  # the model was told the prompt, and so the category


def test_images_are_those_of_each_prompt_with_its_negative_prompt(workspace, folder, layer_run):
    samples = workspace.samples_of(layer_run)
    adapter = load_model("sd-v1.5", folder / "sd", device="cpu")
    for row in (0, 6):  # an animal and a building
        recipe = GenerationRecipe(
            model="sd-v1.5",
            checkpoint=str(folder / "sd"),
            prompt=samples.prompts[row],
            negative_prompt="blurry" if row == 0 else "",
            num_samples=row + 1,
        )
        alone = generate(recipe, workspace, adapter=adapter).result.images[row]
        assert np.abs(alone.astype(int) - samples.images[row]).max() <= 1


@pytest.mark.parametrize("target", ["fixed", "matched"])
def test_prompt_is_drawn_with_the_layer_masked_and_replayed(workspace, folder, layer_run, target):
    recipe = GenerationRecipe(
        model="sd-v1.5",
        checkpoint=str(folder / "sd"),
        layer_run=layer_run.run_id,
        layers=("h_space",),
        sample_ids=workspace.samples_of(layer_run).sample_ids[:3],
        target=target,
        prompt="a big dog",
        negative_prompt="blurry",
        passes="conditional",
        sampling=Sampling(num_steps=3),
    )
    outcome = generate(recipe, workspace, device="cpu")
    assert outcome.result.difference_images.any()
    assert set(outcome.path["variant"]) == {"masked", "baseline"}
    assert len(outcome.path) == 6
    assert replay(outcome.run_id, open_workspace(), device="cpu").largest_difference <= 1


def test_prompt_sets_grow_by_seeds_and_by_lines(workspace, folder):
    made = {"model": "sd-v1.5", "checkpoint": str(folder / "sd"), "num_steps": 2, "device": "cpu"}
    few = generate_dataset(prompts=str(folder / "few.txt"), **made)
    assert (few.num_samples, few.made) == (2, 2)
    more = generate_dataset(prompts=str(folder / "few.txt"), samples_per_prompt=3, **made)
    assert (more.num_samples, more.made) == (6, 4)
    (folder / "few.txt").write_text((folder / "few.txt").read_text() + "an old cow\n")
    longer = generate_dataset(prompts=str(folder / "few.txt"), **made)
    assert (longer.num_samples, longer.made) == (3, 1)
    workspace = open_workspace()
    sets = [SampleSet.read_parquet(samples_file(workspace, outcome.run_id)) for outcome in (few, more, longer)]
    for grown in sets[1:]:
        assert np.array_equal(grown.images[:2], sets[0].images)
    assert list(sets[1].prompts) == ["a red dog", "a big house"] * 3
    assert len(np.unique(sets[1].images.reshape(6, -1), axis=0)) == 6


def test_sdxl_extracts_in_bfloat16_and_generates(workspace, folder):
    outcome = extract(
        "sdxl", str(folder / "sdxl"), f"prompts:{folder}/prompts.csv", ("mid_block",),
        sigmas=(3.0,), max_samples=18, precision="bfloat16", device="cpu",
    )  # fmt: skip
    (record,) = workspace.catalog.layers(outcome.run_id)
    assert record.params["precision"] == "bfloat16"
    recipe = GenerationRecipe(
        model="sdxl", checkpoint=str(folder / "sdxl"), precision="bfloat16", layer_run=record.run_id,
        sample_ids=workspace.samples_of(record).sample_ids[:2], prompt="a red house", sampling=Sampling(num_steps=2),
    )  # fmt: skip
    assert generate(recipe, workspace, device="cpu").result.difference_images.any()


def test_runs_with_a_lora_that_the_model_took_in_part_are_tagged(workspace, folder):
    tensors = loras.kohya({"unet": loras.draw_factors(draw_sd_pipeline(1), 0)["unet"]}, 3.0)
    save_file({**tensors, "lora_unet_nowhere.diff": torch.ones(3)}, folder / "odd.safetensors")
    said = {"adapter": "sd-v1.5", "base": "sd", "lora": "odd.safetensors"}
    (folder / "config.json").write_text(json.dumps(said))
    model = {"model": "sd-v1.5", "checkpoint": str(folder)}
    recipe = GenerationRecipe(**model, prompt="a red house", sampling=Sampling(num_steps=2))
    with pytest.raises(CheckpointError, match="adapter_partial"):
        generate(recipe, workspace, device="cpu")
    partial = {**model, "adapter_partial": True}
    told = f"1 of the {len(tensors) // 3 + 1} modules of odd.safetensors"
    made = generate(replace(recipe, adapter_partial=True), workspace, device="cpu")
    assert workspace.catalog.run(made.run_id).adapter_partial == told
    series = generate_dataset(
        num_steps=1, prompts=str(folder / "few.txt"), samples_per_prompt=9, device="cpu", **partial
    )
    outcome = extract(dataset=f"run:{series.run_id}", layers=("mid_block",), sigmas=(1.0,), device="cpu", **partial)
    (layer,) = workspace.catalog.layers(outcome.run_id)
    for record in (workspace.catalog.run(series.run_id), workspace.catalog.run(outcome.run_id), layer):
        assert record.adapter_partial == told
        assert record.params.get("adapter_partial", "True") == "True"
    (folder / "config.json").unlink()


def test_unconditional_ddpm_makes_and_maps_its_own_samples(workspace, folder):
    model = {"model": "ddpm", "checkpoint": str(folder / "ddpm"), "device": "cpu"}
    made = generate_dataset(num_samples=18, num_steps=3, **model)
    outcome = extract(dataset=f"run:{made.run_id}", layers=("mid_block",), sigmas=(1.0,), **model)
    (record,) = workspace.catalog.layers(outcome.run_id)
    assert record.params["conditioning"] == "none"
    assert (workspace.samples_of(record).class_labels == -1).all()
    assert "knn_accuracy_activation" not in record.metrics


def test_what_does_not_fit_is_refused_before_any_image_is_made(workspace, folder):
    before = len(workspace.catalog.runs("generate-dataset", unfinished=True))
    prompts = f"prompts:{folder}/prompts.csv"
    with pytest.raises(ConfigError, match="takes prompts"):
        extract(dataset=prompts)
    model = {"model": "sd-v1.5", "checkpoint": str(folder / "sd"), "device": "cpu"}
    with pytest.raises(LookupError, match="did you mean 'mid_block'"):
        extract(dataset=prompts, layers=("mid_blok",), **model)
    with pytest.raises(ConfigError, match="noise levels above 0"):
        extract(dataset=prompts, sigmas=(0.0,), **model)
    with pytest.raises(ConfigError, match="needs more than 15 samples, but there are 3"):
        extract(dataset=prompts, max_samples=3, **model)
    with pytest.raises(ConfigError, match="needs more than 15 samples, but there are 3"):
        generate_dataset(num_samples=3, layers=("mid_block",), **model)
    assert len(workspace.catalog.runs("generate-dataset", unfinished=True)) == before
