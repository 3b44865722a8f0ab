"""Folders of other pipelines are refused by name; schedulers' keys are followed, named or refused."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest

from diffviews.adapters import load_adapter
from diffviews.adapters.diffusion_schedule import DiffusionSchedule
from diffviews.adapters.diffusion_scheduler import FOLLOWED, IDLE, PLAIN, SCHEDULERS, SOLVER, scheduler_keys
from diffviews.errors import CheckpointError
from tests.diffusion_folders import draw_ddpm_pipeline, draw_sd_pipeline, draw_sdxl_pipeline, saved


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def vq_latent(folder: Path) -> Path:
    vae = diffusers.VQModel(
        block_out_channels=[8], down_block_types=["DownEncoderBlock2D"], up_block_types=["UpDecoderBlock2D"],
        norm_num_groups=2, num_vq_embeddings=8,
    )  # fmt: skip
    unet = draw_ddpm_pipeline(1).unet
    return saved(diffusers.LDMPipeline(vae, unet, diffusers.DDIMScheduler()), folder)


def consistency(folder: Path) -> Path:
    unet = draw_ddpm_pipeline(1).unet
    return saved(diffusers.ConsistencyModelPipeline(unet, diffusers.CMStochasticIterativeScheduler()), folder)


def score_sde(folder: Path) -> Path:
    return saved(draw_ddpm_pipeline(2, diffusers.ScoreSdeVeScheduler()), folder)


def renamed(name: Any, draw: Callable[..., Any] = draw_ddpm_pipeline, **changes: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        saved(draw(0), folder)
        edit_json(folder / "model_index.json", _class_name=name, **changes)
        return folder

    return make


@pytest.mark.parametrize(
    ("model", "make", "named"),
    [
        ("ddpm", vq_latent, r"LDMPipeline.*fits no model here.*DDPMPipeline"),
        ("ddpm", renamed("DDPMPipeline", vqvae=["diffusers", "VQModel"]), r"component 'vqvae' \(VQModel\)"),
        ("ddpm", consistency, r"ConsistencyModelPipeline, which fits no model here"),
        ("ddpm", score_sde, r"scheduler ScoreSdeVeScheduler is not that of a variance-preserving"),
        ("ddpm", renamed("ScoreSdeVePipeline"), "ScoreSdeVePipeline, which fits no model"),
        ("ddpm", renamed("KarrasVePipeline"), "KarrasVePipeline"),
        ("ddpm", renamed("StableDiffusionPipeline", draw_sd_pipeline), "fits model 'sd-v1.5', not 'ddpm'"),
        ("ddpm", renamed(["evil", "Pipeline"]), "custom pipeline, which fits no model"),
        ("sd-v1.5", renamed("DDIMPipeline"), "fits model 'ddpm', not 'sd-v1.5'"),
        ("sd-v1.5", renamed("StableDiffusionXLPipeline", draw_sdxl_pipeline), "fits model 'sdxl', not 'sd-v1.5'"),
        ("dmd2-sd-v1.5", renamed("StableDiffusionXLPipeline", draw_sdxl_pipeline), "fits model 'sdxl'"),
        ("sd-v1.5", renamed("StableDiffusionInpaintPipeline", draw_sd_pipeline), "Inpaint.*fits no model here"),
        ("sd-v1.5", renamed("StableDiffusionPipeline", draw_sd_pipeline, prior=["diffusers", "PriorTransformer"]),
         "component 'prior'"),
        ("sdxl", renamed("StableDiffusionPipeline", draw_sd_pipeline), "fits model 'sd-v1.5', not 'sdxl'"),
        ("sdxl", renamed("StableDiffusionXLImg2ImgPipeline", draw_sdxl_pipeline, requires_aesthetics_score=True),
         "refiner"),
        ("sdxl", renamed("FluxPipeline", draw_sdxl_pipeline), "FluxPipeline, which fits no model here"),
    ],
)  # fmt: skip
def test_folders_that_do_not_fit_are_refused_with_what_does(model: str, make: Any, named: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    with pytest.raises(CheckpointError, match=named):
        load_adapter(model, folder, device="cpu")


@pytest.mark.parametrize(
    ("model", "make"),
    [
        ("ddpm", renamed("DDIMPipeline")),
        ("ddpm", renamed("PNDMPipeline")),
        ("sd-v1.5", renamed("StableDiffusionImg2ImgPipeline", draw_sd_pipeline)),
        ("sd-v1.5", renamed("StableDiffusionPipeline", draw_sd_pipeline, image_encoder=["transformers", "CLIP"],
                            safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])),
        ("sdxl", renamed("StableDiffusionXLImg2ImgPipeline", draw_sdxl_pipeline)),
    ],
)  # fmt: skip
def test_folders_of_kindred_pipelines_are_taken(model: str, make: Any, tmp_path: Path) -> None:
    assert load_adapter(model, make(tmp_path / "model"), device="cpu").hookable_layers


# Schedulers


def test_every_key_of_every_known_scheduler_is_decided_upon() -> None:
    for kind in SCHEDULERS:
        undecided = scheduler_keys({"_class_name": kind}) - FOLLOWED - SOLVER - PLAIN.keys() - IDLE
        assert not undecided, kind


@pytest.mark.parametrize(
    "kind",
    ["CMStochasticIterativeScheduler", "FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "ScoreSdeVeScheduler",
     "KarrasVeScheduler", "VQDiffusionScheduler", "RePaintScheduler", "UnCLIPScheduler", "IPNDMScheduler",
     "DDIMInverseScheduler", "CosineDPMSolverMultistepScheduler", "os.system", "DiffusionPipeline"],
)  # fmt: skip
def test_schedulers_that_are_not_known_are_refused(kind: str) -> None:
    with pytest.raises(CheckpointError, match=rf"scheduler {kind} is not.*known are: DDIMScheduler"):
        DiffusionSchedule.from_config({"_class_name": kind})


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "epsilon"}, "use_flow_sigmas"),
        ("UniPCMultistepScheduler", {"use_dynamic_shifting": True}, "use_dynamic_shifting"),
        ("UniPCMultistepScheduler", {"shift_terminal": 0.1}, "shift_terminal"),
        ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, "whole timesteps"),
        ("EulerDiscreteScheduler", {"interpolation_type": "log_linear"}, "interpolation_type"),
        ("EulerDiscreteScheduler", {"interpolation_type": "log_linear", "timestep_spacing": "leading"}, "more noise"),
        ("EulerDiscreteScheduler", {"final_sigmas_type": "one"}, "final_sigmas_type"),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True, "use_beta_sigmas": True}, "Only one of"),
        ("EulerDiscreteScheduler", {"prediction_type": "flow_prediction"}, "'flow_prediction'"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver"}, "DPMSolverMultistepScheduler"),
        ("DDIMScheduler", {"num_train_timesteps": 10**9}, "num_train_timesteps 1000000000"),
        ("DDIMScheduler", {"num_train_timesteps": "1000"}, "num_train_timesteps '1000'"),
        ("DDIMScheduler", {"beta_start": "0.1"}, "DDIMScheduler"),
        ("LCMScheduler", {"timestep_scaling": 0.1}, "timestep_scaling 0.1"),
        ("DDIMScheduler", {"trained_betas": [0.1, 0.2]}, "2 trained_betas for 1000"),
        ("DDPMScheduler", {"beta_start": 0.0, "beta_end": 0.0}, "between 0 and 1"),
    ],
)  # fmt: skip
def test_values_by_which_results_would_differ_are_refused(kind: str, options: dict, named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        DiffusionSchedule.from_config({"_class_name": kind, **options})


def test_configuration_without_a_class_is_ddim_s_unless_it_has_other_keys() -> None:
    assert DiffusionSchedule.from_config({"beta_end": 0.01}).timesteps(2).tolist() == [500, 0]
    with pytest.raises(CheckpointError, match=r"no _class_name.*'use_karras_sigmas'"):
        DiffusionSchedule.from_config({"use_karras_sigmas": True})


@pytest.mark.parametrize(
    ("scheduler", "told"),
    [
        (diffusers.DPMSolverMultistepScheduler(), r"how it steps.*\(algorithm_type.*solver_order.*variance_type\)"),
        (diffusers.DDPMScheduler(), r"how it steps between them \(variance_type\) is not"),
        (diffusers.UniPCMultistepScheduler(), r"predict_x0"),
        (diffusers.DDIMScheduler(timestep_spacing="linspace"), r"miss the next level"),
        (diffusers.DDIMScheduler(timestep_spacing="trailing"), r"unless they divide"),
        (diffusers.EulerDiscreteScheduler(timestep_spacing="trailing"), None),
        (diffusers.DDIMScheduler(), None),
        (diffusers.EulerDiscreteScheduler(timestep_spacing="leading"), None),
    ],
)
def test_what_is_not_followed_is_named_once_in_one_line(
    scheduler: Any, told: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = saved(draw_ddpm_pipeline(1, scheduler), tmp_path / "model")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load_adapter("ddpm", folder, device="cpu")
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("diffviews")]
    if told is None:
        assert ours == []
        return
    (line,) = ours
    assert "\n" not in line
    assert type(scheduler).__name__ in line
    assert re.search(told, line), line


def test_keys_that_a_scheduler_does_not_have_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = saved(draw_ddpm_pipeline(1, diffusers.DDIMScheduler()), tmp_path / "model")
    edit_json(folder / "scheduler" / "scheduler_config.json", tensor_format="pt", use_karras_sigmas=True)
    caplog.clear()
    load_adapter("ddpm", folder, device="cpu")
    assert "tensor_format, use_karras_sigmas are no key of it" in caplog.text


def test_class_of_the_index_is_the_scheduler_s_as_in_diffusers(tmp_path: Path) -> None:
    folder = saved(draw_ddpm_pipeline(1, diffusers.DDIMScheduler()), tmp_path / "model")
    edit_json(folder / "model_index.json", scheduler=["diffusers", "EulerDiscreteScheduler"])
    edit_json(folder / "scheduler" / "scheduler_config.json", timestep_spacing="linspace")
    theirs = diffusers.DDPMPipeline.from_pretrained(folder).scheduler
    assert type(theirs).__name__ == "EulerDiscreteScheduler"
    theirs.set_timesteps(6)
    ours = load_adapter("ddpm", folder, device="cpu").model_sigmas(6)
    assert ours.float().tolist() == theirs.sigmas[:-1].tolist()
